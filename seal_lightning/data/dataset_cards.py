"""The places that a folder with a data set names for its files are confined to that folder.

The library `datasets` reads the card (`README.md`) and `.huggingface.yaml` of a folder, and opens whatever they name,
even on other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import yaml

from seal_lightning.errors import DataError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.contained import contained

CARDS = ("README.md", ".huggingface.yaml")
PLACES = ("data_files", "data_dir")
_HEAD = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", re.DOTALL)  # of a card in Markdown


def check_cards(folder: Path) -> None:
    """Raises `DataError` if a card of the folder is not YAML within bounds, or names files elsewhere."""
    for name in CARDS:
        if (folder / name).is_file():
            path = contained(folder, name)
            for place in _places(_head(path)):
                if "://" in place or "::" in place or PurePosixPath(place).is_absolute() or ".." in place.split("/"):
                    raise DataError(
                        f"{path}: expected files of that folder, got {place[:100]!r}: name them in data_files if you "
                        "trust whoever wrote the card"
                    )


def check_within(folder: Path, files: Iterable[str | Path]) -> None:
    """Raises `DataError` if a file of a data set lies, or leads, outside its folder."""
    for file in files:
        contained(folder, file)


def _head(path: Path) -> object:
    text = path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    if path.suffix == ".md":
        head = _HEAD.match(text)
        text = head[1] if head else ""
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: expected YAML about a data set, got {reason}: repair it, or move it away") from error


def _places(value: object, *, named: bool = False) -> Iterator[str]:
    """Every text at or below a key that names files."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, named=named or key in PLACES)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, named=named)
    elif named and isinstance(value, str):
        yield value
