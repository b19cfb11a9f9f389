"""Documents to adapt to: the input of `seal adapt`, cut into passages that a self-edit can be about.

A document is whatever a reader calls a context: a file, a row of JSON. A long one becomes several passages
(`splitting`). Its queries belong to the document; each passage gets those whose answer it contains, to score its
self-edits.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from seal_lightning.data.base import Reader, row_sources, scorable
from seal_lightning.data.dataset_rows import DatasetRows, knows
from seal_lightning.data.dataset_sources import is_saved, peek
from seal_lightning.data.detect import reader_for
from seal_lightning.data.formats import kind_of
from seal_lightning.data.json_forms import UnknownForm
from seal_lightning.data.splitting import split
from seal_lightning.data.text_folder import FilesRead, TextFolder
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.rows import Row, decode, describe, read_rows
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context

STDIN = "-"
PAGE = re.compile(r"\s*(?:<\?xml[^<>]*>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)  # as curl pipes it
TEXTS = ("text", "content", "document", "article", "body")  # names of columns with a text to learn


@dataclass(frozen=True, slots=True)
class Document:
    """A document that one adapter may be about.

    Attributes:
        context: The whole text with all of its queries.
        passages: The same, cut; each with the queries whose answer it contains.
        source: Where it comes from, below what was named, by which its next version is recognised.
    """

    context: Context
    passages: tuple[Context, ...]
    source: str = ""

    @property
    def id(self) -> str:
        return self.context.id


@dataclass(frozen=True, slots=True)
class Documents:
    """All documents of a command.

    Attributes:
        documents: The documents, in the order of the sources.
        left_out: For each folder a line that counts the files left out, and a line for each unusable document.
        unread: How many files were left out.
    """

    documents: tuple[Document, ...]
    left_out: tuple[str, ...] = ()
    unread: int = 0


def read_sources(
    sources: Sequence[str],
    *,
    stdin: bytes = b"",
    queries: str | None = None,
    passage_chars: int = 2000,
    strict: bool = False,
) -> Documents:
    """Read documents in the order of `sources`.

    Args:
        sources: Files and folders, read as `--data.train` is; `-` is `stdin`.
        stdin: Content of standard input: a text, a web page, or JSON, one object or one per line.
        queries: A file of rows `{"document": id or title, "question", "answer"}`, added to the documents' own queries.
        passage_chars: Longest passage in characters.
        strict: Whether an unusable document of a folder is an error; otherwise it is left out with a warning.

    Raises:
        ConfigError: `passage_chars` is too small.
        DataError: A source cannot be read, or two documents have the same id.
    """
    if passage_chars < 100:
        raise ConfigError(f"passage_chars must be at least 100, got {passage_chars}: try 2000")
    about = Path(queries).expanduser() if queries is not None else None
    read = [_read(source, stdin, but=about, strict=strict) for source in sources]
    known: dict[str, Context] = {}
    origins: dict[str, str] = {}
    for context, source in zip(
        chain.from_iterable(reading.contexts for reading in read), _sources(sources, read), strict=True
    ):
        origins.setdefault(context.id, source)
    for context in scorable([context for reading in read for context in reading.contexts]):
        if known.setdefault(context.id, context) != context:
            raise DataError(
                f"{shortened(context.id, 60)}: expected a unique id, got one that another document has too: rename one"
            )
    if about is not None:
        known = _with_queries(known, about)
    documents = (
        Document(context, tuple(_passages(context, passage_chars)), origins[context.id]) for context in known.values()
    )
    left_out = tuple(line for reading in read for line in reading.left_out)
    return Documents(tuple(documents), left_out, sum(reading.unread for reading in read))


def _sources(named: Sequence[str], read: Sequence[FilesRead]) -> Iterator[str]:
    """Where each context comes from; what two of the named places have alike gets the place's name before it."""
    places = Counter(chain.from_iterable({*reading.sources} for reading in read))
    for place, reading in zip(named, read, strict=True):
        yield from (f"{Path(place).name}/{one}" if places[one] > 1 else one for one in reading.sources)


def _read(source: str, stdin: bytes, *, but: Path | None, strict: bool) -> FilesRead:
    """The contexts of a source; the file of queries does not count among those of a folder."""
    if source == STDIN:
        contexts = _read_stdin(stdin)
        return FilesRead(tuple(contexts), tuple(row_sources(STDIN, contexts) if len(contexts) > 1 else [STDIN]))
    place = Path(source).expanduser()
    if place.is_dir() and not is_saved(place):
        return TextFolder(source, strict=strict).read_all(but=but)
    reader = _reader(source, place)
    contexts = reader.read()
    is_text = isinstance(reader, TextFolder)
    return FilesRead(tuple(contexts), tuple([place.name] if is_text else row_sources(place.name, contexts)))


def _reader(source: str, place: Path) -> Reader:
    """The reader for a file or a saved data set; besides the known forms, rows with a text each are documents."""
    if is_saved(place) and (columns := _texts_of(place)):
        return DatasetRows(source, columns=columns)
    try:
        return reader_for(source)
    except DataError as error:
        if kind_of(place.name) == "table":
            return TextFolder(source)  # a table of other columns is a document
        if isinstance(error, UnknownForm) and (columns := _texts_of(place)):
            return DatasetRows(source, columns=columns)
        raise


def _texts_of(place: Path) -> dict[str, str] | None:
    """The columns of rows with a text each, as in most data sets for training models; None for other rows."""
    names, _ = peek(place)
    text = next((name for name in TEXTS if name in names), None)
    if text is None or knows(names):
        return None
    return {"passage": text, "title": "title"} if "title" in names else {"passage": text}


def _read_stdin(stdin: bytes) -> list[Context]:
    try:
        text = decode(stdin)
    except UnicodeDecodeError:
        raise DataError("-: expected UTF-8 text on standard input, got other bytes: convert it") from None
    if not text.strip():
        raise DataError("-: expected a text or JSON on standard input, got nothing: pipe a document into the command")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin{_suffix(text)}"
        path.write_text(text, encoding="utf-8")
        try:
            contexts = _reader(str(path), path).read()
        except DataError as error:
            raise DataError(str(error).replace(str(path), STDIN)) from error
    return [replace(context, title="") if context.title == "stdin" else context for context in contexts]


def _suffix(text: str) -> str:
    """The ending for a file with this content: JSON (one value, or one per line), a web page, or else Markdown."""
    for content, suffix in ((text, ".json"), (text.strip().splitlines()[0], ".jsonl")):
        try:
            if isinstance(parse_json(content), dict | list):
                return suffix
        except ValueError:
            continue
    return ".html" if PAGE.match(text) else ".md"


def _with_queries(contexts: Mapping[str, Context], path: Path) -> dict[str, Context]:
    known = dict(contexts)
    titles: dict[str, list[str]] = {}
    for context in contexts.values():
        titles.setdefault(context.title, []).append(context.id)
    for row in read_rows(path):
        name = _document(row, known, titles)
        known[name] = replace(known[name], queries=(*known[name].queries, row.query("answer", "answers")))
    return known


def _document(row: Row, contexts: Mapping[str, Context], titles: Mapping[str, Sequence[str]]) -> str:
    """The id of the document that a query is about; a single document need not be named."""
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
        expected, got = f"the title or id of a document ({_some([*filter(None, titles)])})", describe(value)
    raise row.error("document", expected=expected, got=got, advice="name one of them")


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(shortened(name, 60)) for name in names[:5]) or "without titles"


def _passages(document: Context, longest: int) -> Iterator[Context]:
    pieces = split(document.passage, longest)
    if len(pieces) < 2:
        yield document
        return
    for number, piece in enumerate(pieces, start=1):
        text = _folded(piece)
        answered = tuple(query for query in document.queries if any(_folded(gold) in text for gold in query.golds))
        yield replace(document, id=f"{document.id}#{number}", passage=piece, queries=answered, edits=())


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
