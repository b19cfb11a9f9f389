"""What a fit, validation or test came to, as its run folder keeps it: `fit.json` for programs, `fit.md` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.results.accuracy import AccuracyRow, to_table
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.types import JsonObject


@dataclass(frozen=True, slots=True)
class ResultFile:
    """The content of the file.

    Attributes:
        accuracy: The rows of the accuracy table.
        tables: What the task adds to it.
        notes: What was changed, limited, cut or left out, a sentence each.
    """

    accuracy: Sequence[AccuracyRow] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """All of it, as it is printed and saved."""
        return "\n\n".join([*map(to_markdown, (to_table(self.accuracy), *self.tables)), *self.notes])

    def save(self, path: Path) -> None:
        """Write `path` with `.json` and with `.md`. Raises `SavingError` where that cannot be."""
        save_text(path.with_suffix(".md"), self.markdown() + "\n")
        save_text(path.with_suffix(".json"), json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> ResultFile | None:
    """What a command has saved; None where it is not there yet, or damaged."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return ResultFile(
            tuple(AccuracyRow(**row) for row in content["accuracy"]),
            tuple(
                Table(str(one["title"]), tuple(map(str, one["header"])), tuple(map(tuple, one["rows"])))
                for one in content["tables"]
            ),
            tuple(map(str, content["notes"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None


def json_object(path: Path) -> JsonObject:
    """The object in a JSON file; empty where there is none, or the file is damaged."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
