"""Any data set that the library `datasets` reads, by the names of its columns: on the hub, in a file, in a folder.

source (`dataset_sources.py`) -> rows -> columns (`columns.py`) -> contexts, rows with the same passage united
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal

from seal_lightning.data.base import Reader, check_path, some, unite
from seal_lightning.data.columns import Columns, RowReader, unpacked
from seal_lightning.data.dataset_sources import DatasetSource, DatasetTable
from seal_lightning.data.json_files import own_context, seal_context
from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.files.rows import Row
from seal_lightning.types import Context

log = logging.getLogger(__name__)

HEAD = 50  # rows that are looked at to see whether the columns are there


class DatasetRows(Reader):
    """Reads any data set of the hub, a CSV, TSV, Parquet, Arrow or JSON file, or a folder of such files.

    `columns` says what is where; a dot leads into nested columns:

        {"title": "title", "passage": "context", "question": "question", "answers": "answers.text"}

    | part | what its column holds |
    |---|---|
    | `passage` | a text, or a list of paragraphs, each a text or a list of sentences |
    | `title`, `id` | of the passage |
    | `question` | a text, or a list of texts: several questions about the passage |
    | `answers` | a text or number, a list of accepted ones, or an object with them in `text`; a list for a list |
    | `choices`, `labels` | of multiple choice: the texts to choose from, and their labels where these are not A, B, C |
    | `edits` | self-edits written beforehand: a text or a list |

    Rows with the same title and passage become one context. Without `question` contexts have no queries, and without
    `answers` queries can be answered (`seal predict`), not scored. Numbers as answers are written as text, 3.0 as 3;
    truth values are an error. With `choices` a question ends with them, and the right one's text is the answer.

    Args:
        path: A name on the hub such as rajpurkar/squad, a file, a folder of files (also with sub-folders, as the hub
            has them), or a folder of `save_to_disk`. A data set that needs code of its own to be loaded is refused.
        columns: The column of each part; null recognises the names of our own form, of SEAL's, or passage (context),
            question and answers (answer).
        split: Which split; null takes the only one. A single file is read as a whole.
        name: Name of the configuration, if a data set has several.
        revision: Branch, tag or commit of a data set on the hub.
        data_files: Read only these files of a folder or of a data set on the hub: a pattern or a list.
        streaming: Read a data set on the hub row by row, without downloading all of it.
        limit: Read the first rows only, at most this many; null reads all.
        missing: skip leaves out rows without a passage, question or answer, and says how many; error stops at one.
    """

    def __init__(
        self,
        path: str,
        *,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        data_files: str | list[str] | None = None,
        streaming: bool = False,
        limit: int | None = None,
        missing: Literal["skip", "error"] = "skip",
    ) -> None:
        self.path = check_path("path", path)
        self.columns = None if columns is None else Columns.of(columns)
        for option, value in {"split": split, "name": name, "revision": revision}.items():
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"{option} must be a name, got {value!r}: leave it out for null")
        if limit is not None:
            check_count("limit", limit)
        if missing not in ("skip", "error"):
            raise ConfigError(f"missing must be skip or error, got {missing!r}: use skip")
        self.missing = missing
        self._where = DatasetSource(path, name, split, revision, data_files, streaming, limit)

    def read(self) -> list[Context]:
        table = self._where.table()
        head = list(islice(table.rows(), HEAD))
        if not head:
            raise DataError(f"{self.path}: expected rows, got none: check path, split and limit")
        if self.columns is None and (form := _form(table.names)):
            return unite((row, form(row)) for row in table.rows())
        columns = self.columns or Columns.guessed(table.names)
        if columns is None:
            raise unknown_columns(self.path, table.names)
        columns.check(table.names, head, source=self.path)
        reading = RowReader(columns, table.classes, strict=self.missing == "error")
        contexts = unite(reading.contexts(_rows(table, columns)))
        if reading.skipped:
            log.warning("%s: skipped %s, of %d rows", self.path, _skipped(reading), reading.rows)
        if reading.numbers:
            log.info("%s: wrote %d numbers as text", self.path, reading.numbers)
        if not contexts:
            raise DataError(f"{self.path}: expected contexts, got none in {reading.rows} rows: {_skipped(reading)}")
        return contexts


def _skipped(reading: RowReader) -> str:
    return ", ".join(f"{count} {what}" for what, count in reading.skipped.items()) or "check the columns"


def _rows(table: DatasetTable, columns: Columns) -> Iterable[Row]:
    """The rows, with only the columns that are needed if that saves reading the others."""
    tops = {next((n for n in (c, c.partition(".")[0]) if n in table.names), c) for c in columns.named().values()}
    return table.rows(sorted(tops) if tops <= set(table.names) else None)


def _form(names: Sequence[str]) -> Callable[[Row], Context] | None:
    """How a row becomes a context in one of the forms that are known as a whole: our own, and SEAL's."""
    if "passage" in names and ("queries" in names or "question" not in names):
        return lambda row: own_context(_listed(row, "queries"))
    if {"context", "questions"} <= set(names):
        return lambda row: seal_context(_listed(row, "questions"))
    return None


def _listed(row: Row, field: str) -> Row:
    """The row with a list of objects in a field that was an object of lists, or a text in a table."""
    value = unpacked(row, field, row.values.get(field))
    if isinstance(value, list):
        return Row(row.file, row.place, {**row.values, field: value})
    if not isinstance(value, Mapping) or not all(isinstance(items, list) for items in value.values()):
        return row
    items = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    return Row(row.file, row.place, {**row.values, field: items})


def knows(names: Sequence[str]) -> bool:
    """Whether rows with these columns can be read without naming the columns."""
    return _form(names) is not None or Columns.guessed(names) is not None


def unknown_columns(path: str, names: Sequence[str]) -> DataError:
    """The error for rows whose columns have to be named, with how to name them."""
    listed = some(names, 12)
    return DataError(
        f"{path}: expected columns passage (or context), question and answers (or answer), or those of a known form, "
        f"got {listed}: say which is which, as in '{{class_path: seal_lightning.data.DatasetRows, init_args: {{path: "
        f"{path}, columns: {{passage: COLUMN, question: COLUMN, answers: COLUMN}}}}}}'"
    )
