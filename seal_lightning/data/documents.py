"""Documents to adapt to: what `seal adapt` is given, cut into passages that a self-edit can be about.

A document is whatever a reader calls a context: a text file, a row of JSON. A long one becomes several passages, cut
between paragraphs where possible, else between sentences, else between words. Its queries belong to the document; a
passage gets those whose answer stands in it, for its self-edits to be scored on.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal_lightning.data.base import scorable
from seal_lightning.data.dataset_sources import is_saved
from seal_lightning.data.detect import read_contexts
from seal_lightning.data.rows import LINES, Row, describe, read_rows
from seal_lightning.data.text_folder import SUFFIXES
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.escaping import shortened
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
    sources: Sequence[str], *, stdin: bytes = b"", queries: str | None = None, passage_chars: int = 2000
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
    about = Path(queries).expanduser() if queries is not None else None
    contexts = scorable([context for source in sources for context in _read(source, stdin, but=about)])
    known: dict[str, Context] = {}
    for context in contexts:
        if known.setdefault(context.id, context) != context:
            raise DataError(
                f"{shortened(context.id, 60)}: expected an id of its own, got one of another document too: rename one"
            )
    if about is not None:
        known = _with_queries(known, about)
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


def _read(source: str, stdin: bytes, *, but: Path | None) -> list[Context]:
    """The contexts of a source; a folder may hold texts and JSON, and the file of queries, which is not among them."""
    if source == STDIN:
        return _read_stdin(stdin)
    place = Path(source).expanduser()
    if not place.is_dir() or is_saved(place):
        return read_contexts(source)
    files = sorted(file for file in place.rglob("*") if file.is_file() and not _hidden(file.relative_to(place)))
    rows = [file for file in files if file.suffix.lower() in (".json", *LINES) and not (but and file.samefile(but))]
    texts = read_contexts(source) if not rows or any(file.suffix.lower() in SUFFIXES for file in files) else []
    return texts + [context for file in rows for context in read_contexts(file)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_stdin(stdin: bytes) -> list[Context]:
    try:
        text = stdin.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("-: expected UTF-8 text on standard input, got other bytes: convert it") from None
    if not text.strip():
        raise DataError("-: expected a text or JSON on standard input, got nothing: pipe a document into the command")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin{_suffix(text)}"
        path.write_text(text, encoding="utf-8")
        try:
            contexts = read_contexts(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), STDIN)) from error
    return [replace(context, title="") if context.title == "stdin" else context for context in contexts]


def _suffix(text: str) -> str:
    """Of a file with this content: JSON where it is JSON, one value or one a line, else Markdown."""
    for content, suffix in ((text, ".json"), (text.strip().splitlines()[0], ".jsonl")):
        try:
            if isinstance(json.loads(content), dict | list):
                return suffix
        except ValueError:
            continue
    return ".md"


def _with_queries(contexts: Mapping[str, Context], path: Path) -> dict[str, Context]:
    found = dict(contexts)
    titles: dict[str, list[str]] = {}
    for context in contexts.values():
        titles.setdefault(context.title, []).append(context.id)
    for row in read_rows(path):
        name = _document(row, found, titles)
        found[name] = replace(found[name], queries=(*found[name].queries, row.query("answer", "answers")))
    return found


def _document(row: Row, contexts: Mapping[str, Context], titles: Mapping[str, Sequence[str]]) -> str:
    """Which document a query is about; the only one need not be named."""
    value = row.values.get("document")
    if value is None and len(contexts) == 1:
        return next(iter(contexts))
    if isinstance(value, str) and value in contexts:
        return value
    named = titles.get(value, ()) if isinstance(value, str) and value else ()
    if len(named) == 1:
        return named[0]
    if named:
        expected, got = f"the id of one document ({_some(named)})", f"the title of {len(named)}"
    else:
        expected, got = f"the title or id of a document ({_some([one for one in titles if one])})", describe(value)
    raise row.error("document", expected=expected, got=got, advice="name one of them")


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(shortened(name, 60)) for name in names[:5]) or "without titles"


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
