"""Which reader a path needs, so that `--data.train file.json` simply works."""

from __future__ import annotations

import os
from pathlib import Path

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.arc_layouts import holds_puzzles, looks_like_puzzles
from seal_lightning.data.base import Reader
from seal_lightning.data.jsonl import Jsonl
from seal_lightning.data.rows import LINES, read_rows
from seal_lightning.data.seal_json import SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.data.text_folder import SUFFIXES, TextFolder
from seal_lightning.errors import DataError
from seal_lightning.types import Context

ABOUT = ("readme", "license", "licence", "contributing", "changelog", "notice", "code_of_conduct")


def read_contexts(path: str | os.PathLike[str]) -> list[Context]:
    """Read a file or folder with the reader that its name and content ask for.

    A folder and .txt or .md files go to `TextFolder`, .parquet to `Squad`; JSON goes by the fields of its first row:
    `passage` to `Jsonl`, `context` and `questions` to `SealJson`, SQuAD's own forms to `Squad`, `train` and `test` of
    ARC to `ArcFiles`. To the last goes also a folder with .json files and no texts, or with puzzles and fewer texts.

    Raises:
        DataError: There is nothing at the path, its form is unknown, or the reader found a mistake.
    """
    return reader_for(path).read()


def reader_for(path: str | os.PathLike[str] | Reader) -> Reader:
    """The reader for a path, by its name and the first row of its content; a reader is its own."""
    if isinstance(path, Reader):
        return path
    place, name = Path(path).expanduser(), os.fspath(path)
    suffix = place.suffix.lower()
    if not place.exists():
        advice = "check the path, or give the reader as class_path and init_args (a data set on the hub needs Squad)"
        raise DataError(f"{place}: expected a file or folder, got nothing there: {advice}")
    if place.is_dir():
        return ArcFiles(name) if _is_of_puzzles(place) else TextFolder(name)
    if suffix in SUFFIXES:
        return TextFolder(name)
    if suffix == ".parquet":
        return Squad(name)
    if suffix in (".json", *LINES):
        return _reader_for_json(place, name)
    known = ", ".join((".json", *LINES, ".parquet", *SUFFIXES))
    raise DataError(
        f"{place}: expected a folder or a file that ends in {known}, got {suffix or 'no ending'!r}: rename it"
    )


def _is_of_puzzles(folder: Path) -> bool:
    """JSON only, or puzzles of ARC beside fewer texts, as a repository has them."""
    texts = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not _is_about(file)]
    listed = sum(1 for _ in folder.rglob("*.json"))
    return listed > len(texts) and (holds_puzzles(folder) or not texts)


def _is_about(file: Path) -> bool:
    """Whether a text is about the files beside it."""
    return file.stem.lower().startswith(ABOUT)


def _reader_for_json(place: Path, name: str) -> Reader:
    first = read_rows(place)[0]
    fields = first.values.keys()
    if "passage" in fields:
        return Jsonl(name)
    if {"context", "questions"} <= fields:
        return SealJson(name)
    if "paragraphs" in fields or {"context", "question"} <= fields:
        return Squad(name)
    if looks_like_puzzles(first.values) or looks_like_puzzles([first.values]):
        return ArcFiles(name)
    expected = "an object with passage, or context and questions (or question: SQuAD), or train and test (ARC)"
    got = f"the fields {', '.join(sorted(fields)[:8]) or '(none)'}"
    raise first.error("", expected=expected, got=got, advice="see seal_lightning.data.Jsonl for the simplest format")
