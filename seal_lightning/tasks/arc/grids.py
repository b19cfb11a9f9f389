"""Grids of ARC as text and back: what a model reads and writes of a puzzle (SEAL, section 4.1).

A grid is a tuple of rows of colours 0 to 9. Encodings are one line a row without anything around it, so a text stands
for at most one grid; reading is strict and says why a text is not a grid. `digits` is the canonical one, in which
contexts, gold answers and rollouts hold their grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seal_lightning.errors import ConfigError

Grid = tuple[tuple[int, ...], ...]  # rows of colours
COLOURS = 10
MAX_SIDE = 30


class GridError(ValueError):
    """A value is not a grid.

    Attributes:
        reason: One of a few short texts that can be counted; the message has the details.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(f"{reason}: {details}" if details else reason)
        self.reason = reason


def make_grid(rows: Any) -> Grid:
    """The grid of a list of rows, as JSON has it.

    Raises:
        GridError: The grid is empty, ragged or too large, or holds something other than colours.
    """
    if not _is_list(rows) or not all(_is_list(row) for row in rows):
        raise GridError("no grid", "expected a list of rows, each a list of colours")
    grid = tuple(tuple(row) for row in rows)
    for number, row in enumerate(grid, start=1):
        for cell in row:
            if isinstance(cell, bool) or not isinstance(cell, int) or not 0 <= cell < COLOURS:
                raise GridError("not a colour", f"row {number} has {str(cell)[:20]!r}, colours are 0 to {COLOURS - 1}")
    return _checked(grid)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _checked(grid: Grid) -> Grid:
    if not grid or not grid[0]:
        raise GridError("no grid", "it has no cells")
    for number, row in enumerate(grid, start=1):
        if len(row) != len(grid[0]):
            raise GridError("ragged rows", f"row {number} has {len(row)} cells, row 1 has {len(grid[0])}")
    if max(len(grid), len(grid[0])) > MAX_SIDE:
        raise GridError("too large", f"{len(grid)} x {len(grid[0])}, the limit is {MAX_SIDE} x {MAX_SIDE}")
    return grid


@dataclass(frozen=True, slots=True)
class GridText:
    """One way to write grids.

    Attributes:
        symbols: The character of each colour.
        separator: Text between the cells of a row.
    """

    symbols: str
    separator: str

    def encode(self, grid: Grid) -> str:
        """One line a row.

        >>> DIGITS.encode(((1, 2), (3, 4)))
        '12\\n34'
        """
        return "\n".join(self.separator.join(self.symbols[cell] for cell in row) for row in grid)

    def decode(self, text: str) -> Grid:
        """The grid of a text that is one; line ends and spaces around rows do not matter, everything else does.

        Raises:
            GridError: The text is something else.
        """
        lines = [line.strip() for line in text.strip().splitlines()]
        rows = []
        for number, line in enumerate(lines, start=1):
            cells = line.split(self.separator) if self.separator else list(line)
            for cell in cells:
                if len(cell) != 1 or cell not in self.symbols:
                    raise GridError("not a colour", f"row {number} has {cell[:20]!r}, colours are {self.symbols}")
            rows.append(tuple(map(self.symbols.index, cells)))
        return _checked(tuple(rows))


# Cells should be one token each: most tokenizers have a token for a letter with the space before it, those of Qwen and
# SmolLM2 split digits, that of Llama 3 takes up to three digits together.
GRID_TEXTS: Mapping[str, GridText] = MappingProxyType(
    {
        "digits": GridText("0123456789", ""),
        "spaced": GridText("0123456789", " "),
        "letters": GridText("abcdefghij", " "),
    }
)
DIGITS = GRID_TEXTS["digits"]


def grid_text(name: str) -> GridText:
    """The encoding of that name."""
    if not isinstance(name, str) or name not in GRID_TEXTS:
        raise ConfigError(f"grids must be one of {', '.join(GRID_TEXTS)}, got {name!r}: use one of them")
    return GRID_TEXTS[name]
