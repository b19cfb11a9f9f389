"""What a folder with a data set says about where its files are, kept to that folder before the library follows it.

The library `datasets` reads the card (`README.md`) and `.huggingface.yaml` of a folder, and opens whatever they name,
also on other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from seal_lightning.errors import DataError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.contained import contained

CARDS = ("README.md", ".huggingface.yaml")
PLACES = ("data_files", "data_dir")
_HEAD = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", re.DOTALL)  # of a card in Markdown


def check_cards(folder: Path) -> None:
    """Raises `DataError` where a card of the folder is no YAML within bounds, or names files elsewhere."""
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
    """Raises `DataError` where a file that a data set consists of lies, or leads, outside its folder."""
    for file in files:
        contained(folder, file)


def _head(path: Path) -> Any:
    text = path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    if path.suffix == ".md":
        found = _HEAD.match(text)
        text = found[1] if found else ""
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: expected YAML about a data set, got {reason}: repair it, or move it away") from error


def _places(value: Any, *, named: bool = False) -> Iterator[str]:
    """Every text at or below a key that names files."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, named=named or key in PLACES)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, named=named)
    elif named and isinstance(value, str):
        yield value
