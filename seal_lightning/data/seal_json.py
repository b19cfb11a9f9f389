"""The JSON files of the SEAL authors: SQuAD by passage (`squad_train.json`, `squad_val.json`)."""

from __future__ import annotations

from pathlib import Path

from seal_lightning.data.base import Reader, check_path, unite
from seal_lightning.files.rows import Row, read_rows
from seal_lightning.types import Context


class SealJson(Reader):
    """Reads the SEAL authors' files: a list of `{title, context, questions: [{question, answer}]}`.

    An answer is a text or a list of accepted texts. Other fields are ignored.

    Args:
        path: A JSON file, or the same objects one per line.
    """

    def __init__(self, path: str) -> None:
        self.path = check_path("path", path)

    def read(self) -> list[Context]:
        return unite((row, context_of(row)) for row in read_rows(Path(self.path).expanduser()))


def context_of(row: Row) -> Context:
    queries = tuple(question.query("answer") for question in row.rows("questions"))
    return Context(id=row.id(), title=row.title(required=True), passage=row.text("context"), queries=queries)
