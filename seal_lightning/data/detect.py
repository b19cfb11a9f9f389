"""Finds the reader that a path needs, so that `--data.train file.json` simply works."""

from __future__ import annotations

import os
from pathlib import Path

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.arc_layouts import holds_puzzles
from seal_lightning.data.base import Reader, is_hidden
from seal_lightning.data.dataset_rows import DatasetRows, knows, unknown_columns
from seal_lightning.data.dataset_sources import ARROW, TABLES, ending, holds_rows, is_saved, peek
from seal_lightning.data.formats import kind_of
from seal_lightning.data.json_forms import UnknownForm, has_squads_answers, reader_for_json
from seal_lightning.data.squad import Squad
from seal_lightning.data.text_folder import TextFolder
from seal_lightning.errors import DataError
from seal_lightning.files.bounded import check_plain
from seal_lightning.files.shipped import find_file
from seal_lightning.types import Context

ABOUT = ("readme", "license", "licence", "contributing", "changelog", "notice", "code_of_conduct")
ABOUT += ("citation", "authors", "requirements", "makefile")
PROSE = ("markdown", "text", "html", "pdf", "docx", "epub")


def read_contexts(path: str | os.PathLike[str]) -> list[Context]:
    """Read a file or folder with the reader that its name and content call for.

    A folder and documents (text, Markdown, HTML, PDF and so on) go to `TextFolder`; JSON goes by the fields of its
    first row: `passage` and `queries` to `Jsonl`, `context` and `questions` to `SealJson`, SQuAD's own forms to
    `Squad`, `train` and `test` of ARC to `ArcFiles`, as does a folder with puzzles and fewer texts. CSV, Parquet and
    Arrow files go to `DatasetRows` by their columns, as do JSON of `passage`, `question` and `answer`, a folder of
    files of rows and no texts, and a folder of `save_to_disk`.

    Raises:
        UnknownForm: No reader knows the rows or columns.
        DataError: There is nothing at the path, or the reader found a mistake.
    """
    return reader_for(path).read()


def reader_for(path: str | os.PathLike[str] | Reader) -> Reader:
    """The reader for a path, by its name and the first row of its content; a reader is returned as it is."""
    if isinstance(path, Reader):
        return path
    place = find_file(Path(path).expanduser())
    name = os.fspath(path) if place == Path(path).expanduser() else str(place)
    if not place.exists():
        advice = (
            "check the path, or give the reader as class_path and init_args (a data set on the hub needs DatasetRows)"
        )
        raise DataError(f"{place}: expected a file or folder, got nothing there: {advice}")
    check_plain(place)
    if place.is_dir():
        if _is_of_puzzles(place):
            return ArcFiles(name)
        of_rows = is_saved(place) or (holds_rows(place) and not _texts(place))  # with no texts except about the rows
        return DatasetRows(name) if of_rows else TextFolder(name)
    if ending(place) in (*TABLES, *ARROW):
        return _reader_for_table(place, name)
    return reader_for_json(place, name) if kind_of(place.name) == "rows" else TextFolder(name)


def _is_of_puzzles(folder: Path) -> bool:
    """Whether a folder holds puzzles of ARC and fewer texts, as repositories do."""
    if is_saved(folder):
        return False
    puzzles = sum(1 for _ in folder.rglob("*.json"))
    return puzzles > len(_texts(folder)) and holds_puzzles(folder)


def _reader_for_table(place: Path, name: str) -> Reader:
    names, first = peek(place)
    if {"context", "question", "answers"} <= set(names) and has_squads_answers(first.values):
        return Squad(name) if ending(place) == ".parquet" else DatasetRows(name)
    if not knows(names):
        raise UnknownForm(str(unknown_columns(name, names)))
    return DatasetRows(name)


def _texts(folder: Path) -> list[Path]:
    """Documents written to be read, except hidden ones (.gitattributes) and those about the other files."""
    texts = (file for file in folder.rglob("*") if kind_of(file.name) in PROSE)
    return [
        file
        for file in texts
        if not file.stem.lower().startswith(ABOUT) and not is_hidden(file, folder) and file.is_file()
    ]
