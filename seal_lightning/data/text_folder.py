"""Plain text and Markdown files as contexts to learn from, without queries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from seal_lightning.data.base import Reader, check_path, unite
from seal_lightning.data.rows import Row, read_text
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.types import Context

MARKDOWN = (".md", ".markdown")
SUFFIXES = (".txt", *MARKDOWN)


class TextFolder(Reader):
    """Reads text and Markdown files, one context a file, in the order of their paths and without queries.

    The title is a Markdown file's first heading, else the file's name without its ending. A heading that opens the file
    is left out of the passage. Hidden files and folders are skipped.

    Args:
        path: The folder, or one file.
        pattern: Which files of a folder, such as "*.md"; of these, .txt, .md and .markdown are read.
        recursive: Look for the pattern in sub-folders too.
    """

    def __init__(self, path: str, pattern: str = "*", recursive: bool = True) -> None:
        self.path = check_path("path", path)
        if not isinstance(pattern, str) or not pattern or Path(pattern).is_absolute():
            raise ConfigError(f"pattern must be relative, such as '*.md', got {pattern!r}: put the folder in path")
        self.pattern = pattern
        self.recursive = recursive

    def read(self) -> list[Context]:
        files = self._files()
        if not files:
            known = ", ".join(SUFFIXES)
            raise DataError(f"{self.path}: expected {known} files under pattern {self.pattern!r}, got none: check both")
        return unite((Row(file, "the file", {}), _context(file)) for file in files)

    def _files(self) -> list[Path]:
        root = Path(self.path).expanduser()
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder, got nothing there: check the path")
        try:
            matches = root.rglob(self.pattern) if self.recursive else root.glob(self.pattern)
            found = sorted((file.relative_to(root).as_posix(), file) for file in matches)
        except ValueError as error:
            raise ConfigError(f"pattern must be a file pattern, got {self.pattern!r}: {error}") from None
        return [file for name, file in found if _is_text(name) and file.is_file()]


def _is_text(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))


def _context(file: Path) -> Context:
    text = read_text(file)
    title, passage = _heading(text) if file.suffix.lower() in MARKDOWN else ("", text)
    if not passage.strip():
        raise DataError(f"{file}: expected a text, got a heading only: write the text or remove the file")
    return Context(id="", title=title or file.stem, passage=passage.strip())


def _heading(text: str) -> tuple[str, str]:
    """The first Markdown heading ("" without one), and the text without it if it came first."""
    lines = text.splitlines()
    for number, line in _outside_code(lines):
        if found := re.fullmatch(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*", line):
            opens = not any(before.strip() for before in lines[:number])
            return found[1], "\n".join(lines[number + 1 :]) if opens else text
    return "", text


def _outside_code(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not in a fenced block, where # may open a comment."""
    fence = ""
    for number, line in enumerate(lines):
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        elif not fence:
            yield number, line
