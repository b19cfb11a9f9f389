"""Which reader a path needs, so that `--data.train file.json` simply works."""

from __future__ import annotations

import os
from pathlib import Path

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.base import Reader
from seal_lightning.data.formats import MARKDOWN, TEXT, kind_of
from seal_lightning.data.json_forms import reader_for_json
from seal_lightning.data.squad import Squad
from seal_lightning.data.text_folder import TextFolder
from seal_lightning.errors import DataError
from seal_lightning.types import Context


def read_contexts(path: str | os.PathLike[str]) -> list[Context]:
    """Read a file or folder with the reader that its name and content ask for.

    A folder and documents (text, Markdown, HTML, PDF and so on) go to `TextFolder`, .parquet to `Squad`; JSON goes by
    the fields of its first row: `passage` to `Jsonl`, `context` and `questions` to `SealJson`, SQuAD's own forms to
    `Squad`, `train` and `test` of ARC to `ArcFiles`. To the last goes also a folder with .json files and no texts.

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
        return ArcFiles(name) if _has_json_only(place) else TextFolder(name)
    if suffix == ".parquet":
        return Squad(name)
    return reader_for_json(place, name) if kind_of(place.name) == "rows" else TextFolder(name)


def _has_json_only(folder: Path) -> bool:
    """JSON, and nothing that `TextFolder` would read."""
    texts = any(file.suffix.lower() in (*TEXT, *MARKDOWN) for file in folder.rglob("*"))
    return not texts and any(folder.glob("*.json"))
