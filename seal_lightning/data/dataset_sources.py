"""Rows of a data set, wherever it lies: the Hugging Face hub, a file, a folder of files, a folder of `save_to_disk`.

The library `datasets` finds splits and reads Parquet, Arrow and the hub; data sets that bring code are refused by it.
Local CSV and JSON are read here, which names lines in errors and keeps every cell as it was written: a table reader
would turn the answer "007" into 7 and the answer "None" into nothing.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, islice
from os.path import realpath
from pathlib import Path
from typing import Any

from seal_lightning.data.dataset_cards import check_cards, check_within
from seal_lightning.data.separated import named, separator_of, within
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.rows import LINES, Row, read_rows, read_text

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
ARROW = {".parquet": "parquet", ".arrow": "arrow"}  # the builders of `datasets`
ENDINGS = (*TABLES, *ARROW, ".json", *LINES)
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves beside the data


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows are. The fields are options of `DatasetRows`, which documents them."""

    path: str
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    data_files: Any = None
    streaming: bool = False
    limit: int | None = None

    def open(self) -> Table:
        """The rows of the split.

        Raises:
            ConfigError: An option means nothing for this kind of source.
            DataError: There is no such data, or it is not clear which split is meant.
        """
        place = Path(self.path).expanduser()
        if place.is_file():
            return _limited(self._of_file(place), self.limit)
        if place.is_dir():
            self._refuse("revision", "a folder")
            return _limited(_of_saved(self, place) if is_saved(place) else _of_folder(self, place), self.limit)
        if place.suffix.lower() in ENDINGS or not HUB_NAME.fullmatch(self.path):
            raise DataError(
                f"{place}: expected a file, a folder or a name on the hub, got nothing there: check the path"
            )
        return _of_hub(self)

    def _of_file(self, file: Path) -> Table:
        for option in ("split", "name", "revision", "data_files"):
            self._refuse(option, "a single file")
        return _of_files(self, [file])

    def _refuse(self, option: str, what: str) -> None:
        if (value := getattr(self, option)) is not None:
            raise ConfigError(f"{option} must be null where path is {what}, got {value!r}: leave it out")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as they come, the names of their columns, and by column the names of classes where it holds their numbers.

    `select` gives the same rows with the named columns alone, which leaves pictures and sounds unread.
    """

    names: Sequence[str]
    rows: Iterable[Row]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    select: Callable[[Sequence[str]], Iterable[Row]] | None = None


def ending(file: Path) -> str:
    """The ending that says what is in a file, in lower case; `.gz` does not."""
    return (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()


def holds_rows(folder: Path) -> bool:
    """Whether there are files of rows below a folder."""
    return any(ending(file) in ENDINGS for file in folder.rglob("*"))


def is_saved(folder: Path) -> bool:
    """Whether a folder is one of `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def peek(file: Path) -> tuple[Sequence[str], Row]:
    """The columns of a local file, and its first row."""
    table = Source(str(file)).open()
    if (first := next(iter(table.rows), None)) is None:
        raise DataError(f"{file}: expected rows, got none: write it again")
    return table.names, first


# -- local -----------------------------------------------------------------------------------------------------------


def _of_saved(source: Source, folder: Path) -> Table:
    import datasets  # slow to import, and most data needs none of it

    for option in ("name", "data_files"):
        source._refuse(option, "a folder of save_to_disk")
    loaded: Any = _asked(source, lambda: datasets.load_from_disk(str(folder)))
    check_within(folder.absolute(), _filenames(loaded.cache_files))
    if isinstance(loaded, Mapping):
        return _table(source, loaded[_split(source, list(loaded))])
    if source.split is not None and source.split != str(loaded.split):
        raise DataError(f"{folder}: expected split {source.split!r}, got a data set without splits: set split to null")
    return _table(source, loaded)


def _filenames(cached: Any) -> Iterator[Path]:
    """The files that a data set, or each of its splits, lies in."""
    for files in cached.values() if isinstance(cached, Mapping) else [cached]:
        yield from (Path(file["filename"]).absolute() for file in files)


def _of_folder(source: Source, folder: Path) -> Table:
    import datasets

    known = [file for file in sorted(folder.rglob("*")) if file.is_file() and ending(file) in ENDINGS]
    seen = [file for file in known if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not seen:
        raise DataError(f"{folder}: expected files that end in {', '.join(ENDINGS)}, got none: check the path")
    options = {"name": source.name, "data_files": source.data_files}
    if source.data_files is None:
        check_cards(folder)
    builder = _asked(source, lambda: datasets.load_dataset_builder(str(folder), **options))
    by_split = {str(split): list(map(Path, files)) for split, files in (builder.config.data_files or {}).items()}
    if source.data_files is None:
        check_within(folder.absolute(), (file.absolute() for files in by_split.values() for file in files))
    read = {realpath(file) for files in by_split.values() for file in files}
    if source.data_files is None and (left := [file for file in seen if realpath(file) not in read]):
        names = ", ".join(str(file.relative_to(folder)) for file in left[:3]) + ("…" if len(left) > 3 else "")
        log.warning("%s: %d files of another form are not read: %s; name them in data_files", folder, len(left), names)
    return _of_files(source, by_split[_split(source, list(by_split))])


def _of_files(source: Source, files: Sequence[Path]) -> Table:
    """The rows of local files of one form, one file after another."""
    import datasets

    if builder := ARROW.get(ending(files[0])):
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
    return Table(list(dict.fromkeys(name for row in rows for name in row.values)), rows)


def _csv_rows(file: Path) -> list[Row]:
    """The rows of a table with its columns' names in the first line; cells are text as it was written."""
    text = read_text(file)
    separator, before = separator_of(text, file.name)
    limit = csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than a long passage
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = named(next(islice((cells for cells in lines if cells), before, None)))
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{file}, line 1: expected a name for each column, got {repeated[0]!r} twice: rename one")
        if not (rows := [_cells(file, lines.line_num, names, cells) for cells in lines if cells]):
            raise DataError(f"{file}: expected rows below the names of the columns, got none: write it again")
        return rows
    except csv.Error as error:
        raise DataError(f"{file}, line {lines.line_num}: expected a table, got: {error}: repair the line") from None
    finally:
        csv.field_size_limit(limit)


def _cells(file: Path, line: int, names: Sequence[str], cells: Sequence[str]) -> Row:
    cells = within(cells, len(names))
    if len(cells) != len(names):
        raise DataError(
            f"{file}, line {line}: expected {len(names)} cells as in the first line, got {len(cells)}: put cells with "
            "separators in quotes"
        )
    return Row(file, f"line {line}", {name: cell or None for name, cell in zip(names, cells, strict=True)})


# -- through the library ---------------------------------------------------------------------------------------------


def _of_hub(source: Source) -> Table:
    import datasets

    options = {"revision": source.revision, "data_files": source.data_files}
    split = source.split
    if split is None:
        names = _asked(source, lambda: datasets.get_dataset_split_names(source.path, source.name, **options))
        split = _split(source, names)
    options |= {"name": source.name, "split": split, "streaming": source.streaming}
    given = {name: value for name, value in options.items() if value not in (None, False)}
    return _limited(_table(source, _asked(source, lambda: datasets.load_dataset(source.path, **given))), source.limit)


def _split(source: Source, names: Sequence[str]) -> str:
    """The split that is asked for, or the only one."""
    names = list(map(str, names))
    if source.split in names:
        return str(source.split)
    listed = ", ".join(names[:8]) or "none"
    if source.split is None and len(names) == 1:
        return names[0]
    if source.split is None:
        raise DataError(f"{source.path}: expected one split, got {listed}: set split to one of them")
    near = get_close_matches(source.split, names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else "use one of them"
    raise DataError(f"{source.path}: expected split {source.split!r}, got {listed}: {advice}")


def _asked(source: Source, load: Callable[[], Any]) -> Any:
    """What `datasets` loads; its errors, of half a dozen libraries, in one line."""
    try:
        return load()
    except Exception as error:  # network, cache and file formats fail in as many ways as there are libraries
        raise _failed(source, error) from error


def _failed(source: Source, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    what = f"split {source.split!r} of a data set" if source.split else "a data set"
    return DataError(f"{source.path}: expected {what}, got: {reason}: check path, name, split and network")


def _table(source: Source, dataset: Any) -> Table:
    import datasets

    features = dataset.features or {}
    classes = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    if source.limit is not None:  # before rows are asked for: a stream fetches ahead
        dataset = dataset.take(
            min(source.limit, len(dataset)) if isinstance(dataset, datasets.Dataset) else source.limit
        )

    def rows(columns: Sequence[str] | None = None) -> Iterator[Row]:
        chosen = dataset if columns is None else dataset.select_columns(list(columns))
        try:
            for number, values in enumerate(chosen, start=1):
                yield Row(Path(source.path), f"row {number}", values)
        except Exception as error:  # as above: most is read only now
            if isinstance(error, DataError):
                raise
            raise _failed(source, error) from error

    if not features:  # not known before a row is read
        first = next(rows(), None)
        return Table(list(first.values) if first else [], _Again(rows))
    return Table(list(features), _Again(rows), classes, lambda columns: _Again(lambda: rows(columns)))


@dataclass(frozen=True, slots=True)
class _Again:
    """Rows that can be gone through more than once."""

    make: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.make()


def _limited(table: Table, limit: int | None) -> Table:
    if limit is None or not isinstance(table.rows, list):
        return table
    return Table(table.names, table.rows[:limit], table.classes)
