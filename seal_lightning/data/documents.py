"""Documents to adapt to: what `seal adapt` is given, cut into passages that a self-edit can be about.

A document is whatever a reader calls a context: a text file, a row of JSON. A long one becomes several passages, cut
between paragraphs where possible, else between sentences, else between words. Its queries belong to the document; a
passage gets those whose answer stands in it, for its self-edits to be scored on.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal_lightning.data.detect import read_contexts
from seal_lightning.data.rows import Row, describe, read_rows
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.types import Context, Query

STDIN = "-"
PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
SENTENCES = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n")
WORDS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Document:
    """What one adapter may be about.

    Attributes:
        context: The whole text with all of its queries.
        passages: The same, cut; each with the queries whose answer it contains.
    """

    context: Context
    passages: tuple[Context, ...]

    @property
    def id(self) -> str:
        return self.context.id


def read_documents(
    sources: Sequence[str], *, stdin: str = "", queries: str | None = None, passage_chars: int = 2000
) -> list[Document]:
    """Read documents in the order of `sources`.

    Args:
        sources: Files and folders, read as `--data.train` is; `-` is `stdin`.
        stdin: What came through it: a text, or JSON, one object or one a line.
        queries: A file of rows `{"document": id or title, "question", "answer"}`, which go to the documents' own.
        passage_chars: Longest passage in characters.

    Raises:
        ConfigError: `passage_chars` is too small.
        DataError: A source cannot be read, or two documents have the same id.
    """
    if passage_chars < 100:
        raise ConfigError(f"passage_chars must be at least 100, got {passage_chars}: try 2000")
    contexts = [context for source in sources for context in _read(source, stdin)]
    known: dict[str, Context] = {}
    for context in contexts:
        if known.setdefault(context.id, context) != context:
            raise DataError(f"{context.id}: expected an id of its own, got one of another document too: rename one")
    if queries is not None:
        known = _with_queries(known, Path(queries).expanduser())
    return [Document(context, tuple(_passages(context, passage_chars))) for context in known.values()]


def split(text: str, longest: int) -> list[str]:
    """Pieces of at most `longest` characters, cut where it hurts least; their words are those of the text, in order."""
    return _pack(text.strip(), longest, [(PARAGRAPHS, "\n\n"), (SENTENCES, " "), (WORDS, " ")])


def _pack(text: str, longest: int, cuts: Sequence[tuple[re.Pattern[str], str]]) -> list[str]:
    if len(text) <= longest:
        return [text] if text else []
    if not cuts:
        return [text[start : start + longest] for start in range(0, len(text), longest)]
    (cut, glue), *finer = cuts
    packed: list[str] = []
    room = False  # whether the last piece may grow
    for part in filter(None, (part.strip() for part in cut.split(text))):
        if room and len(packed[-1]) + len(glue) + len(part) <= longest:
            packed[-1] += glue + part
            continue
        pieces = _pack(part, longest, finer)
        packed += pieces
        room = len(pieces) == 1
    return packed


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(source: str, stdin: str) -> list[Context]:
    if source != STDIN:
        return read_contexts(source)
    if not stdin.strip():
        raise DataError("-: expected a text or JSON on standard input, got nothing: pipe a document into the command")
    suffix = ".jsonl" if stdin.lstrip()[0] in "{[" and not _is_list(stdin) else ".json" if _is_list(stdin) else ".md"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin{suffix}"
        path.write_text(stdin, encoding="utf-8")
        contexts = read_contexts(path)
    return [replace(context, title="") if context.title == "stdin" else context for context in contexts]


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("[")


def _with_queries(contexts: Mapping[str, Context], path: Path) -> dict[str, Context]:
    found = dict(contexts)
    titles = {context.title: context.id for context in contexts.values() if context.title}
    for row in read_rows(path):
        name = _document(row, found, titles)
        found[name] = replace(found[name], queries=(*found[name].queries, row.query("answer", "answers")))
    return found


def _document(row: Row, contexts: Mapping[str, Context], titles: Mapping[str, str]) -> str:
    """Which document a query is about; the only one need not be named."""
    value = row.values.get("document")
    if value is None and len(contexts) == 1:
        return next(iter(contexts))
    if isinstance(value, str) and (value in contexts or value in titles):
        return value if value in contexts else titles[value]
    known = ", ".join(repr(title) for title in list(titles)[:5]) or "(without titles)"
    raise row.error(
        "document", expected=f"the title or id of a document ({known})", got=describe(value), advice="name one of them"
    )


# -- passages ----------------------------------------------------------------------------------------------------------


def _passages(document: Context, longest: int) -> Iterator[Context]:
    pieces = split(document.passage, longest)
    if len(pieces) < 2:
        yield document
        return
    for number, piece in enumerate(pieces, start=1):
        mine = tuple(query for query in document.queries if _answered_in(piece, query))
        yield replace(document, id=f"{document.id}#{number}", passage=piece, queries=mine, edits=())


def _answered_in(piece: str, query: Query) -> bool:
    text = " ".join(piece.lower().split())
    return any(" ".join(gold.lower().split()) in text for gold in query.golds)
