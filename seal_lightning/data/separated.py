"""Tables in text: what separates their cells, and what spreadsheets put around them when they save as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence

SAID = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's own first line
IN_QUOTES = re.compile(r'"(?:[^"]|"")*"')


def separator_of(text: str, name: str) -> tuple[str, int]:
    """What separates the cells, and how many lines there are before the columns' names: one where it says so itself.

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
