"""The last words of `seal fit` about the best policy: which it is, how it compares, and what to try if there is none.

They go to standard output, in red if no round beat the untrained policy.
"""

from __future__ import annotations

import logging
from pathlib import Path

from seal_lightning.errors import misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import damage, read_record
from seal_lightning.m_step.batches import MStep
from seal_lightning.progress.screen import plain_console, print_alarm
from seal_lightning.results.verdict import FILE, Selection, said

log = logging.getLogger(__name__)


def tell_selection(run: Path, selection: Selection, m_step: MStep) -> None:
    """Print which policy of a run folder is the best."""
    sentence, advice = said(selection)
    if selection.verdict in ("untrained", "nothing"):
        print_alarm(plain_console(), f"{sentence}; nothing was exported as the best policy")
        if selection.verdict == "untrained":
            print("checkpoints/best.ckpt is the untrained policy", flush=True)
        print(f"to try, in another folder: {_remedies(selection, m_step)}", flush=True)
    elif _tell_policy(run / "policy", selection):
        print(f"  {sentence}{f': {advice}' if advice else ''}", flush=True)


def _remedies(selection: Selection, m_step: MStep) -> str:
    if selection.rounds and not any(round.learnt for round in selection.rounds):
        return (
            "more --model.e_step.edits, or another edit prompt, so that some edit earns a reward; --filter.above null "
            "learns from edits without one, too"
        )
    return (
        f"a lower --model.m_step.learning_rate (here {m_step.learning_rate:g}), fewer --model.m_step.epochs (here "
        f"{m_step.epochs}), more --model.e_step.edits to choose from, or more training contexts"
    )


def _tell_policy(folder: Path, selection: Selection) -> bool:
    """Print the best policy and return True, unless an earlier start left it damaged or from another round."""
    try:
        chosen = parse_json((folder / FILE).read_bytes())
        value = "" if chosen["value"] is None else f", {chosen['monitor']} {chosen['value']:.3f}"
        line, round = f"best policy: {folder}  (round {chosen['round']}{value})", chosen["round"]
        fault = damage(folder, read_record(chosen))
    except (OSError, ValueError, KeyError, TypeError) as error:
        line, round, fault = "", selection.best, f"{FILE}: {misread(error)}"
    if fault:
        log.warning("%s: damaged (%s); checkpoints/best.ckpt holds the same policy", folder, fault)
    elif round != selection.best:
        log.warning(
            "%s is from round %s of another start, but the best round here is %s: its policy is in the folder where "
            "this run began",
            folder,
            round,
            selection.best,
        )
    else:
        print(line, flush=True)
        return True
    return False
