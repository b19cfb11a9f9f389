"""A table as data: what a task or a report has to show, before anything decides how it looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of text cells, for Markdown, HTML or a terminal.

    Attributes:
        title: What the table shows; "" where the header says it.
        header: One name for each column.
        rows: The cells, as many in each row as in the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), "a row has as many cells as the header"
