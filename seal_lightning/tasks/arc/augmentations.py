"""Augmentations of grids and puzzles as pure, invertible functions (SEAL, section 4.1).

An augmentation maps every grid of a puzzle alike, so that the images follow a rule like that of the originals; its
inverse brings a model's answer back. `FAMILIES` holds the four sets that a self-edit may choose from, `SYMMETRIES` the
ones to vote with. Maps that lose information, such as cropping, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from math import factorial
from types import MappingProxyType
from typing import Literal, TypeVar

from seal_lightning.tasks.arc.grids import COLOURS, MAX_SIDE, Grid, GridError
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle

_Item = TypeVar("_Item")
Axis = Literal["horizontal", "vertical"]
Side = Literal["left", "right", "above", "below"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A map of grids with an inverse. Two with one name are equal: the name says all that an augmentation does.

    Attributes:
        name: Such as `rotate-90` or `rotate-90+scale-2x2`.
        forward: The map, which need not care for the size of its result.
        backward: Its inverse on images; of another grid it may make anything, even a grid without cells.
    """

    name: str
    forward: Callable[[Grid], Grid] = field(repr=False, compare=False)
    backward: Callable[[Grid], Grid] = field(repr=False, compare=False)

    def apply(self, grid: Grid) -> Grid:
        """The image of a grid.

        Raises:
            GridError: The image would be larger than a grid may be (`too large`).
        """
        image = self.forward(grid)
        if max(len(image), len(image[0])) > MAX_SIDE:
            before, after = f"{len(grid)} x {len(grid[0])}", f"{len(image)} x {len(image[0])}"
            raise GridError("too large", f"{before} becomes {after} by {self.name}")
        return image

    def undo(self, image: Grid) -> Grid:
        """The only grid of which this is the image.

        Raises:
            GridError: There is none (`not augmented`), such as for a grid of 3 rows that should be doubled.
        """
        grid = self.backward(image)
        if self.forward(grid) != image:
            size = f"{len(image)} x {len(image[0])}"
            raise GridError("not augmented", f"no grid becomes this one of {size} by {self.name}")
        return grid


def augment_pair(pair: Pair, augmentation: Augmentation) -> Pair:
    """The pair of the images; GridError where one is too large."""
    return Pair(augmentation.apply(pair.input), augmentation.apply(pair.output))


def augment(puzzle: Puzzle, augmentation: Augmentation) -> Puzzle:
    """The puzzle of the images of all grids; GridError where one is too large."""
    shown, tests = (
        tuple(augment_pair(pair, augmentation) for pair in pairs) for pairs in (puzzle.demonstrations, puzzle.tests)
    )
    return Puzzle(shown, tests, tuple(map(augmentation.apply, puzzle.asked)))


def rotation(degrees: Literal[90, 180, 270]) -> Augmentation:
    """Turned clockwise.

    >>> rotation(90).apply(((1, 2), (3, 4)))
    ((3, 1), (4, 2))
    """
    rows, columns, corner = flip("vertical"), flip("horizontal"), transposition()
    steps = {90: (rows, corner), 180: (rows, columns), 270: (corner, rows)}
    return replace(chain(*steps[degrees]), name=f"rotate-{degrees}")


def flip(axis: Axis) -> Augmentation:
    """Mirrored in place: horizontal swaps left and right, vertical top and bottom."""
    mirror = _mirror_columns if axis == "horizontal" else _mirror_rows
    return Augmentation(f"flip-{axis}", mirror, mirror)


def transposition() -> Augmentation:
    """Rows become columns."""
    return Augmentation("transpose", _transpose, _transpose)


def reflection(side: Side) -> Augmentation:
    """The grid with its mirror image on that side of it.

    >>> reflection("right").apply(((1, 2),))
    ((1, 2, 2, 1),)
    """
    return Augmentation(f"reflect-{side}", partial(_reflect, side=side), partial(_half_without, side=side))


def translation(rows: int, columns: int) -> Augmentation:
    """Moved down and to the right; what leaves the grid comes in again on its other side.

    Offsets are taken modulo the grid's size, so one translation fits grids of every size.
    """
    move, back = partial(_move, rows=rows, columns=columns), partial(_move, rows=-rows, columns=-columns)
    return Augmentation(f"translate-{rows}-{columns}", move, back)


def scaling(rows: int, columns: int) -> Augmentation:
    """Every cell becomes a block of `rows` x `columns` cells: (2, 2) doubles the resolution, (2, 1) the height."""
    grow, shrink = partial(_grow, rows=rows, columns=columns), partial(_shrink, rows=rows, columns=columns)
    return Augmentation(f"scale-{rows}x{columns}", grow, shrink)


def repetition(rows: int, columns: int) -> Augmentation:
    """The grid `rows` times below and `columns` times beside itself."""
    tile, first = partial(_tile, rows=rows, columns=columns), partial(_first_tile, rows=rows, columns=columns)
    return Augmentation(f"repeat-{rows}x{columns}", tile, first)


def colour_permutation(colours: Sequence[int]) -> Augmentation:
    """Colour `c` becomes `colours[c]`; ValueError unless that is a permutation of all colours."""
    inverse_order(colours, COLOURS)
    old, new = bytes(range(COLOURS)), bytes(colours)
    forward, backward = bytes.maketrans(old, new), bytes.maketrans(new, old)
    name = f"colours-{''.join(map(str, colours))}"
    return Augmentation(name, partial(_recolour, table=forward), partial(_recolour, table=backward))


def chain(*steps: Augmentation) -> Augmentation:
    """One after the other; undone in reverse. None at all is the identity.

    No step's image may be too large, not only the last one's.
    """
    name = "+".join(step.name for step in steps) or "identity"
    return Augmentation(name, partial(_apply_each, steps=steps), partial(_undo_each, steps=steps[::-1]))


def reorder(puzzle: Puzzle, order: Sequence[int]) -> Puzzle:
    """The demonstrations in another order, `order[0]` first; ValueError unless that is an order of all of them."""
    inverse_order(order, len(puzzle.demonstrations))
    return replace(puzzle, demonstrations=tuple(puzzle.demonstrations[number] for number in order))


def inverse_order(order: Sequence[int], count: int) -> tuple[int, ...]:
    """Where each of `count` things went.

    >>> inverse_order((2, 0, 1), 3)
    (1, 2, 0)
    """
    if sorted(order) != list(range(count)):
        raise ValueError(f"expected an order of 0 to {count - 1}, each once, got {tuple(order)}")
    return tuple(sorted(range(count), key=order.__getitem__))


def nth_order(count: int, number: int) -> tuple[int, ...]:
    """One of the `count!` orders of as many things, by its number in the dictionary; 0 changes nothing.

    Numbers can be drawn without listing the orders, and without drawing one twice.

    >>> [nth_order(3, number) for number in (0, 1, 5)]
    [(0, 1, 2), (0, 2, 1), (2, 1, 0)]
    """
    left, order = list(range(count)), []
    for others in range(count - 1, -1, -1):
        index, number = divmod(number, factorial(others))
        order.append(left.pop(index))
    return tuple(order)


def _transpose(grid: Grid) -> Grid:
    return tuple(zip(*grid, strict=True))


def _mirror_rows(grid: Grid) -> Grid:
    return grid[::-1]


def _mirror_columns(grid: Grid) -> Grid:
    return tuple(row[::-1] for row in grid)


def _reflect(grid: Grid, side: Side) -> Grid:
    if side in ("left", "right"):
        return _transpose(_reflect(_transpose(grid), "above" if side == "left" else "below"))
    return grid[::-1] + grid if side == "above" else grid + grid[::-1]


def _half_without(grid: Grid, side: Side) -> Grid:
    if side in ("left", "right"):
        return _transpose(_half_without(_transpose(grid), "above" if side == "left" else "below"))
    return grid[len(grid) // 2 :] if side == "above" else grid[: len(grid) // 2]


def _move(grid: Grid, rows: int, columns: int) -> Grid:
    return tuple(_rolled(row, columns) for row in _rolled(grid, rows))


def _rolled(items: tuple[_Item, ...], offset: int) -> tuple[_Item, ...]:
    start = -offset % len(items)
    return items[start:] + items[:start]


def _grow(grid: Grid, rows: int, columns: int) -> Grid:
    wide = grid if columns == 1 else tuple(tuple(cell for cell in row for _ in range(columns)) for row in grid)
    return tuple(row for row in wide for _ in range(rows))


def _shrink(grid: Grid, rows: int, columns: int) -> Grid:
    return tuple(row[::columns] for row in grid[::rows])


def _tile(grid: Grid, rows: int, columns: int) -> Grid:
    return tuple(row * columns for row in grid) * rows


def _first_tile(grid: Grid, rows: int, columns: int) -> Grid:
    return tuple(row[: len(row) // columns] for row in grid[: len(grid) // rows])


def _recolour(grid: Grid, table: bytes) -> Grid:
    return tuple(tuple(bytes(row).translate(table)) for row in grid)  # thrice as fast as a look-up for every cell


def _apply_each(grid: Grid, steps: Iterable[Augmentation]) -> Grid:
    return reduce(lambda image, step: step.apply(image), steps, grid)


def _undo_each(grid: Grid, steps: Iterable[Augmentation]) -> Grid:
    return reduce(lambda image, step: step.undo(image), steps, grid)


_TURNS = (rotation(90), rotation(180), rotation(270), flip("horizontal"), flip("vertical"), transposition())

# All that keep the cells and only turn the grid (the dihedral group): the identity first, each with its inverse.
SYMMETRIES: tuple[Augmentation, ...] = (chain(), *_TURNS, chain(rotation(180), transposition()))

# The sets of the paper. Its translation is a random one; this one moves a grid of any size but 1 x 1, and always alike.
FAMILIES: Mapping[str, tuple[Augmentation, ...]] = MappingProxyType(
    {
        "basic": (
            *_TURNS,
            *(reflection(side) for side in ("left", "right", "above", "below")),
            translation(1, 1),
        ),
        "size": (scaling(2, 2), scaling(2, 1), scaling(1, 2)),
        "chained": tuple(chain(turn, scaling(2, 2)) for turn in _TURNS),
        "repeated": (repetition(1, 2), repetition(2, 1), repetition(2, 2)),
    }
)
