"""A table as data: what a task, a report or a tracker has to show, before anything decides how it looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from seal_lightning.text.escaping import single_line

WIDEST = 60  # characters to which a column is padded; longer texts are not worth it
Cell: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table, for Markdown, HTML, a terminal or a tracker.

    Attributes:
        title: What the table shows; "" where the header says it.
        header: One name for each column.
        rows: The cells, as many in each row as in the header; of a column, all are of one type or None. Texts are those
            of models and data, not yet escaped for anything.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), "a row has as many cells as the header"

    def first(self, count: int) -> Table:
        """The first rows; where there are more, a last row says how many in its first column of texts."""
        if len(self.rows) <= count:
            return self
        more = f"… and {len(self.rows) - count} more, in the journal"
        place = next(number for number, cell in enumerate(self.rows[0]) if isinstance(cell, str))
        last = tuple(more if number == place else None for number in range(len(self.header)))
        return Table(self.title, self.header, (*self.rows[:count], last))


def text_of(cell: Cell) -> str:
    """A cell in words: numbers with three digits, "" for None."""
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return "" if cell is None else str(cell)


def to_markdown(table: Table, *, cell: Callable[[str], str] = single_line) -> str:
    """Markdown whose columns are aligned, so that it reads well in a terminal too; "" without rows.

    Columns without anything in them are left out, but not the first. No cell breaks its line or acts on a terminal.

    Args:
        table: What is shown; its title stands on a line of its own.
        cell: Makes a text harmless: for a page that shows Markdown, `escaping.markdown_cell`.
    """
    if not table.rows:
        return ""
    rows = [[cell(text_of(value)) for value in row] for row in (table.header, *table.rows)]
    used = [place for place in range(len(table.header)) if place == 0 or any(row[place] for row in rows[1:])]
    widths = [min(max(len(row[place]) for row in rows), WIDEST) for place in used]
    lines = [[row[place].ljust(width) for place, width in zip(used, widths, strict=True)] for row in rows]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in ruled)
    return f"{cell(table.title)}:\n\n{text}" if table.title else text
