"""The files of `seal predict`, made from its journal: `edits.jsonl` with self-edits, `answers.jsonl` with answers.

A run that is stopped writes the self-edits that it has, unless that would lose any: a file with other self-edits, which
may come from other settings, is replaced only by a finished run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.files.saving import cannot_save, save_text
from seal_lightning.records.journal import rollout_to_dict
from seal_lightning.types import Prediction, Rollout

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
    save_text(path, "".join(_line(_answer(prediction)) for prediction in predictions))


def _answer(prediction: Prediction) -> Mapping[str, object]:
    golds = {"golds": list(prediction.query.golds)} if prediction.query.golds else {}
    return {
        "context_id": prediction.context.id,
        "question": prediction.query.question,
        **golds,
        "answer": prediction.answer,
        "answers": list(prediction.answers),
        "without_adapter": prediction.alone,
    }


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
