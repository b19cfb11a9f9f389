"""Rows of a data set, wherever it lies: the Hugging Face hub, a file, a folder of files, a folder of `save_to_disk`.

The library `datasets` finds splits and reads Parquet, Arrow and the hub; it refuses data sets that bring code. Local
CSV and JSON are read here, which names lines in errors and keeps every cell as it was written: a table reader would
turn the answer "007" into 7 and the answer "None" into nothing.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from os.path import realpath
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import yaml

from seal_lightning.data.base import did_you_mean, is_hidden, some
from seal_lightning.data.separated import BrokenTable, Line, named, table_lines, within
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.contained import contained
from seal_lightning.files.rows import LINES, Row, read_rows, read_text

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
ARROW = {".parquet": "parquet", ".arrow": "arrow"}  # the builders of `datasets`
ENDINGS = (*TABLES, *ARROW, ".json", *LINES)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
CARDS = ("README.md", ".huggingface.yaml")
PLACES = ("data_files", "data_dir")  # keys of a card that name files
_CARD_HEAD = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", re.DOTALL)  # in Markdown
T = TypeVar("T")
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves beside the data


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where the rows are. The fields are options of `DatasetRows`, which documents them."""

    path: str
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    data_files: str | list[str] | None = None
    streaming: bool = False
    limit: int | None = None

    def table(self) -> DatasetTable:
        """The rows of the split.

        Raises:
            ConfigError: An option is set that does not apply to this kind of source.
            DataError: The data is missing, or several splits may be meant.
        """
        place = Path(self.path).expanduser()
        if place.is_file():
            self.refuse("a single file", "split", "name", "revision", "data_files")
            return _of_files(self, [place])
        if place.is_dir():
            self.refuse("a folder", "revision")
            return _of_saved(self, place) if is_saved(place) else _of_folder(self, place)
        if place.suffix.lower() in ENDINGS or not HUB_NAME.fullmatch(self.path):
            raise DataError(
                f"{place}: expected a file, a folder or a name on the hub, got nothing there: check the path"
            )
        return _of_hub(self)

    def refuse(self, what: str, *options: str) -> None:
        """Raise a `ConfigError` if one of these options is set."""
        for option in options:
            if (value := getattr(self, option)) is not None:
                raise ConfigError(f"{option} must be null where path is {what}, got {value!r}: leave it out")


@dataclass(frozen=True, slots=True)
class DatasetTable:
    """Rows, the names of their columns, and by column the names of classes if it holds their numbers.

    `rows()` may be gone through again and again; `rows([...])` may read only the named columns, which leaves pictures
    and sounds unread.
    """

    names: Sequence[str]
    rows: Callable[..., Iterable[Row]]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def ending(file: Path) -> str:
    """The ending that tells a file's format, in lower case; `.gz` does not count."""
    return (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()


def holds_rows(folder: Path) -> bool:
    """Whether there are files of rows below a folder."""
    return any(ending(file) in ENDINGS for file in folder.rglob("*"))


def is_saved(folder: Path) -> bool:
    """Whether a folder was made by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def peek(file: Path) -> tuple[Sequence[str], Row]:
    """The columns of a local file, and its first row."""
    table = DatasetSource(str(file)).table()
    if (first := next(iter(table.rows()), None)) is None:
        raise DataError(f"{file}: expected rows, got none: write it again")
    return table.names, first


def _of_saved(source: DatasetSource, folder: Path) -> DatasetTable:
    import datasets  # slow to import, and most data needs none of it

    source.refuse("a folder of save_to_disk", "name", "data_files")
    loaded = _asked(source, lambda: datasets.load_from_disk(str(folder)))
    cached = loaded.cache_files.values() if isinstance(loaded, datasets.DatasetDict) else [loaded.cache_files]
    for file in chain.from_iterable(cached):
        contained(folder.absolute(), Path(file["filename"]).absolute())
    if isinstance(loaded, datasets.DatasetDict):
        return _table(source, loaded[_split(source, [*map(str, loaded)])])
    if source.split is not None and source.split != str(loaded.split):
        raise DataError(f"{folder}: expected split {source.split!r}, got a data set without splits: set split to null")
    return _table(source, loaded)


def _of_folder(source: DatasetSource, folder: Path) -> DatasetTable:
    import datasets

    known = [file for file in sorted(folder.rglob("*")) if file.is_file() and ending(file) in ENDINGS]
    seen = [file for file in known if not is_hidden(file, folder)]
    if not seen:
        raise DataError(f"{folder}: expected files that end in {', '.join(ENDINGS)}, got none: check the path")
    options = {"name": source.name, "data_files": source.data_files}
    if source.data_files is None:
        _check_cards(folder)
    builder = _asked(source, lambda: datasets.load_dataset_builder(str(folder), **options))
    by_split = {str(split): list(map(Path, files)) for split, files in (builder.config.data_files or {}).items()}
    if source.data_files is None:
        read = {
            realpath(contained(folder.absolute(), file.absolute())) for files in by_split.values() for file in files
        }
        if left := [str(file.relative_to(folder)) for file in seen if realpath(file) not in read]:
            names = some(left)
            log.warning(
                "%s: %d files of another form are not read: %s; name them in data_files", folder, len(left), names
            )
    return _of_files(source, by_split[_split(source, list(by_split))])


def _check_cards(folder: Path) -> None:
    """Raises `DataError` if a card of the folder is not YAML within bounds, or names files elsewhere.

    `datasets` opens whatever a card names, even on other hosts.
    """
    for name in CARDS:
        if (folder / name).is_file():
            path = contained(folder, name)
            for place in _places(_card(path)):
                if "://" in place or "::" in place or PurePosixPath(place).is_absolute() or ".." in place.split("/"):
                    raise DataError(
                        f"{path}: expected files of that folder, got {place[:100]!r}: name them in data_files if you "
                        "trust whoever wrote the card"
                    )


def _card(path: Path) -> object:
    text = path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    if path.suffix == ".md":
        head = _CARD_HEAD.match(text)
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


def _of_files(source: DatasetSource, files: Sequence[Path]) -> DatasetTable:
    """The rows of local files of one form, one file after another."""
    if builder := ARROW.get(ending(files[0])):
        import datasets

        escaped = [re.sub(r"([*?[])", r"[\1]", str(file)) for file in files]
        return _table(
            source,
            _asked(
                source,
                lambda: datasets.load_dataset(builder, data_files={"train": escaped}, split="train", streaming=True),
            ),
        )
    readers = {**dict.fromkeys(TABLES, _csv_rows), **dict.fromkeys((".json", *LINES), read_rows)}
    if unknown := [file for file in files if ending(file) not in readers]:
        got = ending(unknown[0]) or "no ending"
        raise DataError(f"{unknown[0]}: expected a file that ends in {', '.join(ENDINGS)}, got {got!r}: rename it")
    rows = list(chain.from_iterable(readers[ending(file)](file) for file in files))
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    return DatasetTable(names, lambda columns=None: rows[: source.limit])


def _csv_rows(file: Path) -> list[Row]:
    """The rows of a table with its columns' names in the first line; cells are text as it was written."""
    try:
        first, *lines = table_lines(read_text(file), file.name) or [Line(1, [])]
    except BrokenTable as error:
        raise DataError(f"{file}, line {error.line}: expected a table, got: {error}: repair the line") from None
    names = named(first.cells)
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{file}, line 1: expected a name for each column, got {repeated[0]!r} twice: rename one")
    if not lines:
        raise DataError(f"{file}: expected rows below the names of the columns, got none: write it again")
    return [_row(file, line, names) for line in lines]


def _row(file: Path, line: Line, names: Sequence[str]) -> Row:
    cells = within(line.cells, len(names))
    if len(cells) != len(names):
        raise DataError(
            f"{file}, line {line.number}: expected {len(names)} cells as in the first line, got {len(cells)}: put "
            "cells with separators in quotes"
        )
    return Row(file, f"line {line.number}", {name: cell or None for name, cell in zip(names, cells, strict=True)})


def _of_hub(source: DatasetSource) -> DatasetTable:
    import datasets

    options = {"revision": source.revision, "data_files": source.data_files}
    split = source.split
    if split is None:
        names = _asked(source, lambda: datasets.get_dataset_split_names(source.path, source.name, **options))
        split = _split(source, names)
    options |= {"name": source.name, "split": split, "streaming": source.streaming or None}
    given = {name: value for name, value in options.items() if value is not None}
    return _table(source, _asked(source, lambda: datasets.load_dataset(source.path, **given)))


def _split(source: DatasetSource, names: Sequence[str]) -> str:
    """The split that is asked for, or the only one."""
    names = list(map(str, names))
    if source.split in names:
        return str(source.split)
    listed = ", ".join(names[:8]) or "none"
    if source.split is None and len(names) == 1:
        return names[0]
    if source.split is None:
        raise DataError(f"{source.path}: expected one split, got {listed}: set split to one of them")
    advice = did_you_mean(source.split, names, otherwise="use one of them")
    raise DataError(f"{source.path}: expected split {source.split!r}, got {listed}: {advice}")


def _asked(source: DatasetSource, load: Callable[[], T]) -> T:
    """What `datasets` loads; its errors, of half a dozen libraries, in one line."""
    try:
        return load()
    except DataError:
        raise
    except Exception as error:  # network, cache and file formats fail in as many ways as there are libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        what = f"split {source.split!r} of a data set" if source.split else "a data set"
        advice = "check path, name, split and network"
        raise DataError(f"{source.path}: expected {what}, got: {reason}: {advice}") from error


def _table(source: DatasetSource, dataset: Dataset | IterableDataset) -> DatasetTable:
    import datasets

    features = dataset.features or {}
    classes = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    limit = source.limit
    if limit is not None:  # before rows are asked for: a stream fetches ahead
        dataset = dataset.take(min(limit, len(dataset)) if isinstance(dataset, datasets.Dataset) else limit)

    def rows(columns: Sequence[str] | None = None) -> Iterator[Row]:
        chosen = iter(dataset if columns is None else dataset.select_columns(list(columns)))
        for number in count(1):
            values = _asked(source, lambda: next(chosen, None))  # most is read only now
            if values is None:
                return
            yield Row(Path(source.path), f"row {number}", values)

    if not features:  # not known before a row is read
        first = next(rows(), None)
        return DatasetTable(list(first.values) if first else [], lambda columns=None: rows())
    return DatasetTable(list(features), rows, classes)
