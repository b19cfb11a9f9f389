"""What is said and written at the end of a run: the last words of `seal fit`, and the files of `seal predict`.

`edits.jsonl` has self-edits and `answers.jsonl` answers, both from the journal of the predictions. A run that is
stopped writes the self-edits that it has, unless that would lose any: a file with other self-edits, which may come from
other settings, is replaced only by a finished run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.errors import misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import damage, read_record
from seal_lightning.files.saving import cannot_save, save_text
from seal_lightning.m_step.batches import MStep
from seal_lightning.progress.screen import plain_console, print_alarm
from seal_lightning.records.journal import rollout_to_dict
from seal_lightning.results.verdict import FILE, Selection, said
from seal_lightning.types import Prediction, Rollout

log = logging.getLogger(__name__)

FIELDS = ("context_id", "edit_index", "seed", "prompt", "text", "status", "reason", "asked", "applied")
FIELDS += ("tokens", "usage")


def save_edits(path: Path, rollouts: Sequence[Rollout], *, only_more: bool = False) -> bool:
    """Write self-edits, a line each, whole or not at all.

    Args:
        path: The file.
        rollouts: One rollout of each self-edit.
        only_more: Whether to leave a file alone that has other lines.

    Returns:
        Whether they were written.

    Raises:
        SavingError: The file cannot be written.
    """
    lines = [_line({key: row[key] for key in FIELDS}) for row in map(rollout_to_dict, rollouts)]
    if only_more and not _lines_of(path) <= set(lines):
        return False
    save_text(path, "".join(lines))
    return True


def save_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions, a line each; `seal grade` reads them if the golds are known. Raises as `save_edits`."""
    rows = [
        {
            "context_id": prediction.context.id,
            "question": prediction.query.question,
            **({"golds": list(prediction.query.golds)} if prediction.query.golds else {}),
            "answer": prediction.answer,
            "answers": list(prediction.answers),
            "without_adapter": prediction.alone,
        }
        for prediction in predictions
    ]
    save_text(path, "".join(map(_line, rows)))


def _line(row: Mapping[str, object]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text.encode(errors="replace").decode() + "\n"  # as on disk


def _lines_of(path: Path) -> set[str]:
    """The lines of a file; none if it does not exist."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise cannot_save(path, error) from error
    return {f"{line}\n" for line in text.split("\n") if line}  # a text may contain other line separators


def tell_selection(run: Path, selection: Selection, m_step: MStep) -> None:
    """Print which policy of a run folder is the best; in red if no round beat the untrained one."""
    sentence, advice = said(selection)
    if selection.verdict in ("untrained", "nothing"):
        print_alarm(plain_console(), f"{sentence}; nothing was exported as the best policy")
        if selection.verdict == "untrained":
            print("checkpoints/best.ckpt is the untrained policy", flush=True)
        remedies = (
            f"a lower --model.m_step.learning_rate (here {m_step.learning_rate:g}), fewer --model.m_step.epochs (here "
            f"{m_step.epochs}), more --model.e_step.edits to choose from, or more training contexts"
        )
        if selection.rounds and not any(round.learnt for round in selection.rounds):
            remedies = (
                "more --model.e_step.edits, or another edit prompt, so that some edit earns a reward; --filter.above "
                "null learns from edits without one, too"
            )
            if m_step.goal.compares:
                remedies = (
                    "more --model.e_step.edits, so that the edits of a context earn different rewards; "
                    "--model.m_step.objective sft learns from the best, whatever the others earn"
                )
        print(f"to try, in another folder: {remedies}", flush=True)
    elif _tell_policy(run / "policy", selection):
        print(f"  {sentence}{f': {advice}' if advice else ''}", flush=True)


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
