"""Rows of JSON and JSON Lines files, read so that every mistake is named by file, row and field.

A file holds a JSON list of objects, one object, or one object per line. A `Row` hands out checked fields; nested
objects are rows too, and remember how they were reached ("questions[2].answer").
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal_lightning.errors import DataError
from seal_lightning.files.bounded import parse_json, read_bytes
from seal_lightning.types import Json, Query

LINES = (".jsonl", ".ndjson")
BEGINNING = 8192  # characters that show whether a file is text, as in git


class NoRows(DataError):
    """Valid JSON without objects: a list of names, for example."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file. `place` is "row 3" or "line 3" (1-based); `within` is the path to a nested one."""

    file: Path
    place: str
    values: Mapping[str, Any]
    within: str = ""

    def error(self, field: str, *, expected: str, got: str, advice: str) -> DataError:
        where = f"field {self.within}{field}" if field else "the row"
        return DataError(f"{self.file}, {self.place}: {where} must be {expected}, got {got}: {advice}")

    def text(self, field: str, *, may_be_blank: bool = False) -> str:
        """A text that is not only white space, unless it may be blank."""
        return self._check_text(field, self.values.get(field), may_be_blank=may_be_blank)

    def title(self, *, required: bool = False) -> str:
        """The title, which may be empty, and may be missing unless it is required."""
        title = self.values.get("title")
        if title is None and not required:
            return ""
        return self._check_text("title", title, may_be_blank=True)

    def id(self) -> str:
        """The given id, or "" if there is none."""
        return "" if self.values.get("id") is None else self.text("id")

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts, empty if the field is missing."""
        return tuple(self._check_text(f"{field}[{at}]", item) for at, item in enumerate(self.list(field, default=[])))

    def rows(self, field: str, *, required: bool = True) -> list[Row]:
        """A list of objects; an optional one is empty if it is missing."""
        rows = []
        for at, item in enumerate(self.list(field, default=None if required else [])):
            if not isinstance(item, Mapping):
                raise self.error(f"{field}[{at}]", expected="an object", got=describe(item), advice="write it in {...}")
            rows.append(Row(self.file, self.place, item, f"{self.within}{field}[{at}]."))
        return rows

    def list(self, field: str, *, default: list[Json] | None = None) -> list[Json]:
        value = self.values.get(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, list):
            raise self.error(field, expected="a list", got=self.got(field), advice="write it in [...]")
        return value

    def golds(self, *fields: str) -> tuple[str, ...]:
        """The distinct accepted answers: a text or a list of texts, under the one of `fields` that is there."""
        given = [field for field in fields if self.values.get(field) is not None]
        if len(given) != 1:
            names = " or ".join(fields)
            got = f"both {' and '.join(given)}" if given else self.got(fields[0])
            raise self.error(names, expected="the accepted answers", got=got, advice="give a text or a list of texts")
        field, value = given[0], self.values[given[0]]
        if not isinstance(value, list):
            return (self._check_text(field, value),)
        if not value:
            raise self.error(
                field, expected="at least one answer", got="an empty list", advice="add it or drop the query"
            )
        return tuple(dict.fromkeys(self._check_text(f"{field}[{at}]", item) for at, item in enumerate(value)))

    def query(self, *answer_fields: str) -> Query:
        return Query(self.text("question"), self.golds(*answer_fields))

    def got(self, field: str) -> str:
        return describe(self.values[field]) if field in self.values else "nothing"

    def _check_text(self, field: str, value: object, *, may_be_blank: bool = False) -> str:
        if not isinstance(value, str):
            missing = value is None and "[" not in field
            got, advice = (self.got(field), "add it") if missing else (describe(value), "write it in quotes")
            raise self.error(field, expected="text", got=got, advice=advice)
        if not may_be_blank and not value.strip():
            got = "white space only" if value else "empty text"
            raise self.error(field, expected="text", got=got, advice="fill it in or remove the row")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            got = "half of a surrogate pair (\\ud800 to \\udfff)"
            raise self.error(field, expected="valid Unicode", got=got, advice="repair the escape")
        return value


def describe(value: object) -> str:
    """A JSON value in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:40] + '...'!r}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, Mapping) else type(value).__name__


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of a UTF-16 or UTF-32 file that begins with a byte order mark."""
    try:
        text = decode(read_bytes(path))
    except UnicodeDecodeError as error:
        where = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise DataError(f"{path}: expected UTF-8 text, got {where}: save the file as UTF-8") from None
    if "\0" in text[:BEGINNING]:
        raise DataError(f"{path}: expected UTF-8 text, got a binary file, or UTF-16 without a mark: save it as UTF-8")
    if not text.strip():
        raise DataError(f"{path}: expected data, got an empty file: write it again")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes) -> str:
    """The text of bytes in the encoding that their byte order mark names, else in UTF-8."""
    marks = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"))
    for mark, encoding in (*marks, (codecs.BOM_UTF16_BE, "utf-16")):  # the longer marks first: one begins the other
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-8-sig")


def read_rows(path: Path) -> list[Row]:
    """The objects of a file; of an official SQuAD file, the entries of its `data`."""
    text = read_text(path)
    if path.name.lower().removesuffix(".gz").endswith(LINES) and not text.lstrip().startswith("["):
        return _lines(path, text)
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # one object a line under another file name
            return _lines(path, text)
        raise _broken(path, error.lineno, error) from None
    if isinstance(content, dict) and "data" in content and "passage" not in content:
        content = Row(path, "top level", content).list("data")
    items = content if isinstance(content, list) else [content]
    if items and not isinstance(items[0], Mapping):
        raise NoRows(str(_no_object(path, "row 1", items[0])))
    if not items:
        raise DataError(f"{path}: expected rows, got an empty list: write the file again")
    return [_row(path, f"row {number}", item) for number, item in enumerate(items, start=1)]


def _lines(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines(): JSON texts may hold U+2028
        if line.strip():
            try:
                rows.append(_row(path, f"line {number}", parse_json(line)))
            except json.JSONDecodeError as error:
                raise _broken(path, number, error) from None
    return rows


def _row(path: Path, place: str, item: object) -> Row:
    if not isinstance(item, Mapping):
        raise _no_object(path, place, item)
    return Row(path, place, item)


def _no_object(path: Path, place: str, item: object) -> DataError:
    return Row(path, place, {}).error("", expected="an object", got=describe(item), advice="write it in {...}")


def _broken(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    return DataError(f"{path}, line {line}: expected JSON, got: {error.msg} (column {error.colno}): repair the line")
