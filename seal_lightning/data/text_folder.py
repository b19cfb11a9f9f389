"""Documents as contexts to learn from: text, Markdown, source code, HTML, PDF and more, one file or a folder of them.

A folder may hold anything. Files that are not documents are counted by their ending; a document that cannot be used
(empty, broken, in another encoding) is named. Neither stops the rest, unless `strict` is set.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.data.base import Reader, check_path, is_hidden, row_sources, some, unite
from seal_lightning.data.conversion import MissingExtra, convert
from seal_lightning.data.formats import ending, kind_of
from seal_lightning.data.json_forms import UnknownForm, reader_for_json
from seal_lightning.data.markdown import read_markdown
from seal_lightning.data.splitting import without_blank_lines
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded import check_plain, read_bytes
from seal_lightning.files.contained import contained
from seal_lightning.files.extras import install
from seal_lightning.files.rows import BEGINNING, NoRows, Row, decode, read_text
from seal_lightning.types import Context

log = logging.getLogger(__name__)

INSTALLED = frozenset(["node_modules", "bower_components"])
MARKS = frozenset(["CACHEDIR.TAG", "pyvenv.cfg"])  # files that mark a cache (Rust's target, too) and an environment
SHOWN = 5  # names in a line; also lines about single files that are warnings, the others being at level info
SURROGATE = re.compile("[\ud800-\udfff]")
# reStructuredText: a line that is underlined; AsciiDoc: = Title; Org: #+title, or the first heading.
UNDERLINED = re.compile(r"^[^\S\n]?(?P<title>\w.*)\n([^\w\s])\2{2,}[^\S\n]*$", re.M)
ASCIIDOC = re.compile(r"^=+[^\S\n]+(?P<title>\S.*)$", re.M)
ORG = re.compile(r"^(?:#\+title:|\*+)[^\S\n]+(?P<title>\S.*)$", re.M | re.I)
HEADINGS = {".rst": UNDERLINED, ".rest": UNDERLINED, ".adoc": ASCIIDOC, ".asciidoc": ASCIIDOC, ".org": ORG}


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The result of reading a file or folder.

    Attributes:
        contexts: The contexts, in the order of the files.
        sources: Where each of them comes from, below the folder: `notes/may.md`, and of rows `towns.jsonl#3`.
        left_out: A line that counts the files left out, and a line for each unusable document.
        unread: How many files were left out.
    """

    contexts: tuple[Context, ...]
    sources: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    unread: int = 0


class NotADocument(DataError):
    """A file that is not text and cannot be converted to it."""


class NotAFile(NotADocument):
    """A broken link, a pipe, a socket or a device."""


class TextFolder(Reader):
    """Reads documents, one context a file, in the order of their paths and without queries.

    Text, Markdown, source code, tables (.csv, .tsv: one row per line, "name: value; ...") and notebooks; with the extra
    `documents` also HTML, PDF, Word (.docx) and EPUB; any of them packed (.gz). In a folder, JSON and JSON Lines of a
    known form give their rows. The title is that of the front matter or of the page, else the first heading, else the
    file's name without its ending (for source code, its path). Front matter is left out of the passage, and so is a
    Markdown heading that opens it.

    In a folder, files that cannot be read are counted by their ending or named in a warning, and left out. Hidden files
    and folders are skipped, and so is what a program installed or built (node_modules, a virtual environment, a folder
    with CACHEDIR.TAG); a document with the title and text of another counts once.

    Args:
        path: The folder, or one file.
        pattern: Which files of a folder, such as "*.md".
        recursive: Look for the pattern in sub-folders too.
        strict: Stop at the first document of a folder that cannot be used. Files that are not documents stop nothing.
    """

    def __init__(self, path: str, pattern: str = "*", recursive: bool = True, strict: bool = False) -> None:
        self.path = check_path("path", path)
        if not isinstance(pattern, str) or not pattern or Path(pattern).is_absolute():
            raise ConfigError(f"pattern must be relative, such as '*.md', got {pattern!r}: put the folder in path")
        if not isinstance(strict, bool):
            raise ConfigError(f"strict must be true or false, got {strict!r}")
        self.pattern = pattern
        self.recursive = recursive
        self.strict = strict

    def read(self) -> list[Context]:
        return list(self.read_all().contexts)

    def read_all(self, *, but: Path | None = None) -> FilesRead:
        """The contexts, and what was left out (which is logged too).

        Args:
            but: A file that does not count as a document.
        """
        root = Path(self.path).expanduser()
        if root.is_file():
            return FilesRead(tuple(unite([(Row(root, "the file", {}), _context(root, root.name))])), (root.name,))
        if not root.is_dir():
            if root.exists():
                check_plain(root)
            raise DataError(f"{root}: expected a file or folder, got nothing there: check the path")
        files, folders = self._files(root)
        files = [(name, file) for name, file in files if not (but and file.exists() and file.samefile(but))]
        read = _Folder(self.path, root, self.strict)
        rows = [row for name, file in files for row in read.contexts(name, file)]
        contexts = unite((row, context) for row, context, _ in rows)
        first: dict[tuple[str, str], str] = {}
        for _, context, source in rows:
            first.setdefault((context.title, context.passage), source)
        left_out = read.left_out(len(files), folders, repeated=len(rows) - len(contexts))
        for number, line in enumerate(left_out):  # the line of counts first
            log.log(logging.WARNING if number <= SHOWN else logging.INFO, "%s", line)
        if not rows:
            reason = "; ".join(left_out) or f"no files under pattern {self.pattern!r}"
            raise DataError(f"{self.path}: expected documents, got none: {reason}")
        sources = [first[context.title, context.passage] for context in contexts]
        return FilesRead(tuple(contexts), tuple(sources), tuple(left_out), read.unread)

    def _files(self, root: Path) -> tuple[list[tuple[str, Path]], list[str]]:
        """Files that match the pattern and are not hidden, by path below the folder; and folders not entered."""
        try:
            matches = root.rglob(self.pattern) if self.recursive else root.glob(self.pattern)
            matched = sorted((file.relative_to(root).as_posix(), file) for file in matches)
        except ValueError as error:
            raise ConfigError(f"pattern must be a file pattern, got {self.pattern!r}: {error}") from None
        shown = [(name, file) for name, file in matched if not is_hidden(file, root)]
        if hidden := sum(file.is_file() for _, file in matched) - sum(file.is_file() for _, file in shown):
            log.info("%s: skipped %d hidden files", self.path, hidden)
        closed: list[str] = []
        if self.recursive:
            closed += [f"{name} (a link to a folder)" for name, file in shown if file.is_dir() and file.is_symlink()]
            foreign = _foreign(root, closed)
            closed += [f"{folder.relative_to(root).as_posix()} (made by a program)" for folder in sorted(foreign)]
            shown = [(name, file) for name, file in shown if foreign.isdisjoint(file.parents)]
        return [(name, file) for name, file in shown if not file.is_dir()], closed


def _foreign(root: Path, closed: list[str]) -> set[Path]:
    """Folders below `root` that a program filled, not the owner; those that cannot be opened are added to `closed`."""
    foreign = set()

    def failed(error: OSError) -> None:
        closed.append(f"{error.filename} ({error.strerror})")

    for place, folders, names in os.walk(root, onerror=failed):
        folder = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if folder != root and (folder.name in INSTALLED or not MARKS.isdisjoint(names)):
            foreign.add(folder)
            folders.clear()
    return foreign


class _Folder:
    """Reads the files of one folder and keeps the names of those left out, by reason."""

    def __init__(self, path: str, root: Path, strict: bool) -> None:
        self.path = path
        self.root = root
        self.strict = strict
        self.not_read: list[str] = []
        self.no_files: list[str] = []
        self.needs_extra: list[str] = []
        self.faults: list[str] = []

    @property
    def unread(self) -> int:
        return sum(map(len, (self.not_read, self.no_files, self.needs_extra, self.faults)))

    def contexts(self, name: str, file: Path) -> Iterator[tuple[Row, Context, str]]:
        """Each context of a file, with where it comes from."""
        try:
            contexts = _contexts(contained(self.root, name), name)
            sources = row_sources(_decodable(name), contexts) if kind_of(name) == "rows" else [_decodable(name)]
            for context, source in zip(contexts, sources, strict=True):
                yield Row(file, "the file", {}), context, source
        except NotAFile:
            self.no_files.append(name)
        except (UnknownForm, NoRows, NotADocument):
            self.not_read.append(name)
        except DataError as error:
            if self.strict:
                raise
            if isinstance(error, MissingExtra):
                self.needs_extra.append(name)
            else:
                self.faults.append(str(error))

    def left_out(self, files: int, folders: Sequence[str], *, repeated: int) -> list[str]:
        counted = {
            f"not documents: {_by_ending(self.not_read)}": self.not_read,
            f"not files (broken links, pipes, devices): {some(self.no_files, SHOWN)}": self.no_files,
            f"not read without {install('documents')}: {_by_ending(self.needs_extra)}": self.needs_extra,
            f"{len(self.faults)} cannot be used": self.faults,
        }
        lines = []
        if parts := [part for part, names in counted.items() if names]:
            lines.append(f"{self.path}: read {files - self.unread} of {files} files; {'; '.join(parts)}")
        if repeated:
            what = "document repeats" if repeated == 1 else "documents repeat"
            lines.append(f"{self.path}: {repeated} {what} the title and text of another: counted once")
        if folders:
            lines.append(f"{self.path}: did not enter {some(folders, SHOWN)}")
        return [_decodable(line) for line in (*lines, *(f"left out {fault}" for fault in self.faults))]


def _contexts(file: Path, name: str) -> list[Context]:
    """The contexts of a file in a folder: the rows of JSON, or the one document that any other file is."""
    if not file.is_file():
        raise NotAFile(f"{file}: expected a file, got a broken link, a pipe or a device: remove it")
    if kind_of(name) == "rows":
        return reader_for_json(file, str(file)).read()
    if kind_of(name) is None:
        raise NotADocument(f"{file}: expected a document, got a file that ends in {ending(name)}")
    return [_context(file, name)]


def _context(file: Path, name: str) -> Context:
    """The document that a file is; whether one with an unknown ending is text shows when it is read."""
    kind = kind_of(name) or "text"
    if kind in ("markdown", "text", "code"):
        text = _text(file)
        title, passage = read_markdown(text) if kind == "markdown" else (_title(text, ending(name)), text)
    else:
        title, passage = convert(file, kind)
    passage = without_blank_lines(passage)
    if not passage:
        raise DataError(f"{file}: expected a text, got a heading only: write the text or remove the file")
    if SURROGATE.search(title) or SURROGATE.search(passage):  # an escape in JSON: the cells of a notebook, front matter
        got = "half of a surrogate pair (\\ud800 to \\udfff)"
        raise DataError(f"{file}: expected valid Unicode, got {got}: repair the escape")
    last = name.rpartition("/")[2]
    stem = last[: len(last) - len(ending(last))]
    return Context(id="", title=title or _decodable(name if kind == "code" else stem), passage=passage)


def _text(file: Path) -> str:
    """The text of a file; one without an ending, or with an unknown one, may turn out not to be text."""
    data = read_bytes(file)
    if kind_of(file.name) is None or not ending(file.name):
        try:
            is_binary = "\0" in decode(data)[:BEGINNING]
        except UnicodeDecodeError:
            is_binary = kind_of(file.name) is None  # a README in an old encoding is text
        if is_binary:
            expected = "a document (text, Markdown, HTML, PDF, Word or EPUB)"
            raise NotADocument(f"{file}: expected {expected}, got a file that is not text: convert it to one of these")
    if not data[:BEGINNING].strip() and kind_of(file.name) == "code":  # as many an __init__.py is meant to be
        raise NotADocument(f"{file}: expected a text, got an empty file")
    return read_text(file)


def _title(text: str, suffix: str) -> str:
    """The first heading of a text in a language with headings, "" in any other."""
    pattern = HEADINGS.get(suffix.removesuffix(".gz"))
    heading = pattern.search(text) if pattern else None
    return heading["title"].strip() if heading else ""


def _by_ending(names: Sequence[str]) -> str:
    """Counts such as: 2 .png, 1 without an ending (photo.png, ...)."""
    counts = Counter(ending(name) or "without an ending" for name in names)
    return f"{', '.join(f'{number} {what}' for what, number in counts.most_common())} ({some(names, SHOWN)})"


def _decodable(text: str) -> str:
    """The text without bytes of a file's name that are not valid UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
