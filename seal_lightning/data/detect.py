"""Which reader a path needs, so that `--data.train file.json` simply works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.arc_layouts import holds_puzzles, looks_like_puzzles
from seal_lightning.data.base import Reader
from seal_lightning.data.dataset_rows import DatasetRows, knows, unknown_columns
from seal_lightning.data.dataset_sources import ARROW, ENDINGS, TABLES, ending, holds_rows, is_saved, peek
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

    A folder and .txt or .md files go to `TextFolder`; JSON goes by the fields of its first row: `passage` and `queries`
    to `Jsonl`, `context` and `questions` to `SealJson`, SQuAD's own forms to `Squad`, `train` and `test` of ARC to
    `ArcFiles`, as does a folder with puzzles and fewer texts. CSV, Parquet and Arrow files go to `DatasetRows` by their
    columns, as do JSON of `passage`, `question` and `answer`, a folder of files of rows and no texts, and a folder of
    `save_to_disk`.

    Raises:
        DataError: There is nothing at the path, its form is unknown, or the reader found a mistake.
    """
    return reader_for(path).read()


def reader_for(path: str | os.PathLike[str] | Reader) -> Reader:
    """The reader for a path, by its name and the first row of its content; a reader is its own."""
    if isinstance(path, Reader):
        return path
    place, name = Path(path).expanduser(), os.fspath(path)
    suffix = ending(place)
    if not place.exists():
        advice = (
            "check the path, or give the reader as class_path and init_args (a data set on the hub needs DatasetRows)"
        )
        raise DataError(f"{place}: expected a file or folder, got nothing there: {advice}")
    if place.is_dir():
        if _is_of_puzzles(place):
            return ArcFiles(name)
        return DatasetRows(name) if _is_of_rows(place) else TextFolder(name)
    if suffix in (*TABLES, *ARROW):
        return _reader_for_table(place, name)
    if place.suffix.lower() in SUFFIXES:
        return TextFolder(name)
    if suffix in (".json", *LINES):
        return _reader_for_json(place, name)
    known = ", ".join((*ENDINGS, *SUFFIXES))
    raise DataError(
        f"{place}: expected a folder or a file that ends in {known}, got {suffix or 'no ending'!r}: rename it"
    )


def _is_of_puzzles(folder: Path) -> bool:
    """Puzzles of ARC beside fewer texts, as a repository has them."""
    if is_saved(folder):
        return False
    puzzles = sum(1 for _ in folder.rglob("*.json"))
    return puzzles > len(_texts(folder)) and holds_puzzles(folder)


def _is_of_rows(folder: Path) -> bool:
    """A folder of `save_to_disk`, or files of rows and no texts but those about them."""
    return is_saved(folder) or (holds_rows(folder) and not _texts(folder))


def _reader_for_table(place: Path, name: str) -> Reader:
    names, first = peek(place)
    if {"context", "question", "answers"} <= set(names) and _has_squads_answers(first.values):
        return Squad(name) if ending(place) == ".parquet" else DatasetRows(name)
    if not knows(names):
        raise unknown_columns(name, names)
    return DatasetRows(name)


def _texts(folder: Path) -> list[Path]:
    """What `TextFolder` would read, but for files about the others."""
    seen = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and ending(file) not in ENDINGS)
    return [file for file in seen if not _is_about(file)]


def _is_about(file: Path) -> bool:
    """Whether a text is about the files beside it."""
    return file.stem.lower().startswith(ABOUT)


def _reader_for_json(place: Path, name: str) -> Reader:
    first = read_rows(place)[0]
    fields = first.values.keys()
    if {"passage", "question"} <= fields and "queries" not in fields:
        return DatasetRows(name)
    if "passage" in fields:
        return Jsonl(name)
    if {"context", "questions"} <= fields:
        return SealJson(name)
    if "paragraphs" in fields or ({"context", "question"} <= fields and _has_squads_answers(first.values)):
        return Squad(name)
    if {"context", "question"} <= fields:
        return DatasetRows(name)
    if looks_like_puzzles(first.values) or looks_like_puzzles([first.values]):
        return ArcFiles(name)
    expected = "an object with passage, or context and questions (or question: SQuAD), or train and test (ARC)"
    got = f"the fields {', '.join(sorted(fields)[:8]) or '(none)'}"
    advice = "see seal_lightning.data.Jsonl for the simplest format, or name the columns with DatasetRows"
    raise first.error("", expected=expected, got=got, advice=advice)


def _has_squads_answers(values: Mapping[str, Any]) -> bool:
    """Whether answers are as SQuAD has them: {text: [...]}, or a list of {text}."""
    answers = values.get("answers")
    return isinstance(answers, Mapping) or (isinstance(answers, list) and all(isinstance(a, Mapping) for a in answers))
