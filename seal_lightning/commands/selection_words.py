"""The last words of `seal fit` about the best policy: which one it is, how it compares, and what to try where none is.

They go to standard output, where nothing better than the untrained policy came out in red.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import damage, read_record
from seal_lightning.m_step.batches import MStep
from seal_lightning.options.mistakes import one_line
from seal_lightning.progress.screen import plain_console, print_alarm
from seal_lightning.results.verdict import FILE, Selection, said

log = logging.getLogger(__name__)


def tell_selection(run: Path, selection: Selection, m_step: MStep) -> None:
    """Print what became of a fit in its run folder."""
    sentence, advice = said(selection)
    if selection.verdict in ("untrained", "nothing"):
        print_alarm(plain_console(), f"{sentence}; nothing was exported as the best policy")
        if selection.verdict == "untrained":
            print("checkpoints/best.ckpt is the untrained policy", flush=True)
        print(f"to try, in another folder: {_remedies(selection, m_step)}", flush=True)
    elif _tell_policy(run / "policy", selection):
        print(f"  {sentence}{f': {advice}' if advice else ''}", flush=True)


def _remedies(selection: Selection, m_step: MStep) -> str:
    if selection.rounds and not any(one.learnt for one in selection.rounds):
        return (
            "more --model.e_step.edits, or another edit prompt, so that some edit earns a reward; --filter.above null "
            "would learn from edits without any"
        )
    return (
        f"a lower --model.m_step.learning_rate (here {m_step.learning_rate:g}), fewer --model.m_step.epochs (here "
        f"{m_step.epochs}), more --model.e_step.edits to choose from, or more training contexts"
    )


def _tell_policy(folder: Path, selection: Selection) -> bool:
    """Which policy is the best; one of an earlier start may have been damaged since, or be another round's."""
    try:
        chosen: Any = parse_json((folder / FILE).read_bytes())
        value = "" if chosen["value"] is None else f", {chosen['monitor']} {chosen['value']:.3f}"
        line, round = f"best policy: {folder}  (round {chosen['round']}{value})", chosen["round"]
        fault = damage(folder, read_record(chosen))
    except (OSError, ValueError, KeyError, TypeError) as error:
        line, round, fault = "", selection.best, f"{FILE}: {one_line(str(error))}"
    if fault:
        log.warning("%s: damaged (%s); checkpoints/best.ckpt holds the same policy", folder, fault)
    elif round != selection.best:
        log.warning(
            "%s is of round %s of another start, and the best one here is of round %s: its policy lies where this run "
            "began",
            folder,
            round,
            selection.best,
        )
    else:
        print(line, flush=True)
        return True
    return False
