"""Readers of JSON: our own form, that of the SEAL authors, and passages in one file with questions in another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from seal_lightning.data.base import Reader, check_path, unite
from seal_lightning.files.rows import Row, read_rows, read_text
from seal_lightning.types import Context


class Jsonl(Reader):
    """Reads the package's own form, JSON Lines (or a JSON list) of contexts.

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
        return unite((row, own_context(row)) for row in read_rows(Path(self.path).expanduser()))


def own_context(row: Row) -> Context:
    return Context(
        id=row.id(),
        title=row.title(),
        passage=row.text("passage"),
        queries=tuple(query.query("answers", "answer") for query in row.rows("queries", required=False)),
        edits=row.texts("edits"),
    )


class SealJson(Reader):
    """Reads the SEAL authors' files: a list of `{title, context, questions: [{question, answer}]}`.

    They are SQuAD by passage (`squad_train.json`, `squad_val.json`). An answer is a text or a list of accepted texts.
    Other fields are ignored.

    Args:
        path: A JSON file, or the same objects one per line.
    """

    def __init__(self, path: str) -> None:
        self.path = check_path("path", path)

    def read(self) -> list[Context]:
        return unite((row, seal_context(row)) for row in read_rows(Path(self.path).expanduser()))


def seal_context(row: Row) -> Context:
    queries = tuple(question.query("answer") for question in row.rows("questions"))
    return Context(id=row.id(), title=row.title(required=True), passage=row.text("context"), queries=queries)


class PassagePair(Reader):
    """Reads a file of passages and a file of questions about them, each JSON Lines or a JSON list of objects:

    Passages:  {"id": "ada", "title": "Ada Lovelace", "passage": "Ada Lovelace was ..."}
    Questions: {"passage": "ada", "question": "Who ...?", "answer": "Ada Lovelace"}
    Self-edits: {"passage": "ada", "edit": "a self-edit written beforehand"}

    `id` and `title` may be missing. `passage` in the other files is an id (a text), or a 0-based index into the
    passages (a number). An answer is a text or a list of accepted texts, called `answer` or `answers`. The passages may
    also be a .txt file, with blank lines between them: these have no ids or titles, so they are named by their index.

    Args:
        passages: The file of passages.
        questions: The file of questions.
        edits: A file of self-edits written beforehand; null for none.
    """

    def __init__(self, passages: str, questions: str, edits: str | None = None) -> None:
        self.path = check_path("passages", passages)
        self.questions = check_path("questions", questions)
        self.edits = None if edits is None else check_path("edits", edits)

    def read(self) -> list[Context]:
        rows = _passages(Path(self.path).expanduser())
        contexts = [Context(id=row.id(), title=row.title(), passage=row.text("passage")) for row in rows]
        index_of: dict[str, int] = {}
        for at, context in enumerate(contexts):
            if context.id:  # a repeated id is judged by `unite`, which knows whether the text is the same
                index_of.setdefault(context.id, at)
        for row in read_rows(Path(self.questions).expanduser()):
            at = _index(row, index_of, len(contexts))
            contexts[at] = replace(contexts[at], queries=(*contexts[at].queries, row.query("answer", "answers")))
        for row in read_rows(Path(self.edits).expanduser()) if self.edits else ():
            at = _index(row, index_of, len(contexts))
            contexts[at] = replace(contexts[at], edits=(*contexts[at].edits, row.text("edit")))
        return unite(zip(rows, contexts, strict=True))


def _passages(path: Path) -> list[Row]:
    if path.suffix.lower() != ".txt":
        return read_rows(path)
    passages = re.split(r"\n(?:[^\S\n]*\n)+", read_text(path).strip())  # at one blank line or more
    return [Row(path, f"passage {number}", {"passage": text}) for number, text in enumerate(passages, start=1)]


def _index(row: Row, index_of: Mapping[str, int], passages: int) -> int:
    """The index of the passage that a question or an edit is about."""
    value = row.values.get("passage")
    if isinstance(value, str) and value in index_of:
        return index_of[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < passages:
        return value
    expected = f"the id of a passage (text) or its index (0 to {passages - 1})"
    raise row.error("passage", expected=expected, got=row.got("passage"), advice="name a passage of the other file")
