"""The files of `seal predict`, made from its journal: `edits.jsonl` with self-edits, `answers.jsonl` with answers.

A run that is stopped writes the self-edits that it has, if nothing is lost by that: a file that has others, which may
have been made with other settings, is replaced only by a run that came to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seal_lightning.files.saving import cannot_save, save_text
from seal_lightning.records.journal import rollout_to_dict
from seal_lightning.types import Prediction, Rollout

FIELDS = ("context_id", "edit_index", "seed", "prompt", "text", "status", "reason", "asked", "applied")
FIELDS += ("tokens", "usage")


def save_edits(path: Path, rollouts: Sequence[Rollout], *, only_more: bool = False) -> bool:
    """Write self-edits, a line each, whole or not at all.

    Args:
        path: The file.
        rollouts: One of each self-edit.
        only_more: Leave a file as it is that has a line which these have not.

    Returns:
        Whether they were written.

    Raises:
        SavingError: They cannot be.
    """
    lines = [_line({key: row[key] for key in FIELDS}) for row in map(rollout_to_dict, rollouts)]
    if only_more and not _lines_of(path) <= set(lines):
        return False
    save_text(path, "".join(lines))
    return True


def save_answers(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions, a line each, which `seal grade` reads where the golds are known. Raises as `save_edits`."""
    save_text(path, "".join(_line(_answer(prediction)) for prediction in predictions))


def _answer(prediction: Prediction) -> Mapping[str, Any]:
    golds = {"golds": list(prediction.query.golds)} if prediction.query.golds else {}
    return {
        "context_id": prediction.context.id,
        "question": prediction.query.question,
        **golds,
        "answer": prediction.answer,
        "answers": list(prediction.answers),
        "without_adapter": prediction.alone,
    }


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text.encode(errors="replace").decode() + "\n"  # as it is on disk


def _lines_of(path: Path) -> set[str]:
    """The lines of a file that may be there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise cannot_save(path, error) from error
    return {f"{line}\n" for line in text.split("\n") if line}  # other separators may stand within a text
