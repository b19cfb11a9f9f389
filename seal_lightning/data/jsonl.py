"""The package's own format: everything about a context in one object."""

from __future__ import annotations

from pathlib import Path

from seal_lightning.data.base import Reader, check_path, unite
from seal_lightning.files.rows import Row, read_rows
from seal_lightning.types import Context


class Jsonl(Reader):
    """Reads JSON Lines (or a JSON list) of contexts.

    One object per context; only `passage` is required, and other fields are ignored:

        {"id": "ada", "title": "Ada Lovelace", "passage": "Ada Lovelace was ...",
         "queries": [{"question": "Who ...?", "answers": ["Ada Lovelace", "Lovelace"]}],
         "edits": ["a self-edit written beforehand"]}

    A query may have one `answer` instead of `answers`.

    Args:
        path: The file: .jsonl with one object per line, or .json with a list.
    """

    def __init__(self, path: str) -> None:
        self.path = check_path("path", path)

    def read(self) -> list[Context]:
        return unite((row, context_of(row)) for row in read_rows(Path(self.path).expanduser()))


def context_of(row: Row) -> Context:
    return Context(
        id=row.id(),
        title=row.title(),
        passage=row.text("passage"),
        queries=tuple(query.query("answers", "answer") for query in row.rows("queries", required=False)),
        edits=row.texts("edits"),
    )
