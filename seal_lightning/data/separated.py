"""Tables in text: what separates their cells, and what spreadsheets put around them when they save as CSV."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

SAID = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's own first line
IN_QUOTES = re.compile(r'"(?:[^"]|"")*"')


class BrokenTable(ValueError):
    """A text that is not a table; `line` is where it breaks."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


class Line(NamedTuple):
    """The cells of a line of a table, and its number in the file (1-based)."""

    number: int
    cells: list[str]


def table_lines(text: str, name: str) -> list[Line]:
    """The lines of a table that are not empty; the first has the columns' names.

    Args:
        text: The table.
        name: Name of its file, whose ending may tell what separates the cells.

    Raises:
        BrokenTable: A quotation mark is not closed, for example.
    """
    separator, before = separator_of(text, name)
    limit = csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than a long passage
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [Line(lines.line_num, cells) for cells in lines if cells][before:]
    except csv.Error as error:
        raise BrokenTable(str(error), lines.line_num) from None
    finally:
        csv.field_size_limit(limit)


def separator_of(text: str, name: str) -> tuple[str, int]:
    """What separates the cells, and how many lines precede the columns' names: one if the table says so itself.

    >>> separator_of("name;text\\nDelta;a, b, c\\n", "a.csv"), separator_of("sep=;\\na;b\\n", "a.csv")
    ((';', 0), (';', 1))
    """
    first = text.lstrip("\n").partition("\n")[0]
    if said := SAID.fullmatch(first):
        return said[1], 1
    if name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t", 0
    return max("\t;|,", key=IN_QUOTES.sub("", first).count), 0


def named(cells: Sequence[str]) -> list[str]:
    """The names in a first line, without the empty ones at its end."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def within(cells: Sequence[str], count: int) -> list[str]:
    """A line's cells without empty ones beyond a number of columns."""
    return list(cells if any(cell.strip() for cell in cells[count:]) else cells[:count])
