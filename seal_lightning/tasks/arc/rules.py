"""Rules that make one grid from another, and puzzles that show them: an endless supply of synthetic ARC puzzles.

A rule is a chain of steps, each a family with parameters; its name tells it all, and decides by a digest whether the
rule is for training, validation or test, so that held-out puzzles follow rules that no training puzzle follows. What is
left out of the real ARC: objects, symmetry to complete, anything that needs more than one look at a grid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.arc.augmentations import (
    chain,
    colour_permutation,
    rotation,
    scaling,
    translation,
    transposition,
)
from seal_lightning.tasks.arc.grids import COLOURS, MAX_SIDE, Grid
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHARES = {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}  # of the last digit of a name's digest
_TRIES = 1000  # draws of a rule or a grid before giving up: the rarest that can be asked for comes up in dozens

NOTHING: Grid = ((0,),)  # what counting makes of a grid without the colour

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One family of rules with its parameters."""

    family: str
    parameters: Numbers = ()

    @property
    def name(self) -> str:
        return f"{self.family}({','.join(map(str, self.parameters))})"


@dataclass(frozen=True, slots=True)
class Rule:
    """Steps, each on what the one before it made."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        return "+".join(step.name for step in self.steps)

    @property
    def split(self) -> Split:
        digit = derive_seed("grid rule", self.name) % 10
        return next(split for split in SPLITS if digit in _SHARES[split])

    def apply(self, grid: Grid) -> Grid:
        """What the rule makes of a grid."""
        for step in self.steps:
            grid = _FAMILIES[step.family].apply(grid, *step.parameters)
        return grid


_TURNS = (chain(), rotation(90), rotation(180), rotation(270))
# By the number that a rule's name gives: weights know these, so their order is fixed, unlike that of `augmentations`.
_SYMMETRIES = (*_TURNS, *(chain(transposition(), turn) for turn in _TURNS))


def _gravity(grid: Grid, turns: int) -> Grid:
    """Cells that are not 0 fall down, after so many quarter turns that are taken back."""
    columns = []
    for column in zip(*_TURNS[turns].forward(grid), strict=True):
        solid = [cell for cell in column if cell]
        columns.append([0] * (len(column) - len(solid)) + solid)
    return _TURNS[turns].backward(tuple(zip(*columns, strict=True)))


def _border(grid: Grid, colour: int) -> Grid:
    edge = (colour,) * (len(grid[0]) + 2)
    return (edge, *((colour, *row, colour) for row in grid), edge)


def _counting(grid: Grid, colour: int) -> Grid:
    """A row of as many cells as the grid has of a colour."""
    count = sum(row.count(colour) for row in grid)
    return ((colour,) * count,) if count else NOTHING


@dataclass(frozen=True, slots=True)
class _Family:
    apply: Callable[..., Grid]  # of a grid and the parameters
    draw: Callable[[random.Random], Numbers]


def _draw_colours(draw: random.Random) -> Numbers:
    """A map of colours under which every one but 0 becomes another."""
    while True:
        others = draw.sample(range(1, COLOURS), COLOURS - 1)
        if all(colour != number for number, colour in enumerate(others, start=1)):
            return (0, *others)


_FAMILIES: Mapping[str, _Family] = MappingProxyType(
    {
        "symmetry": _Family(
            lambda grid, number: _SYMMETRIES[number].forward(grid), lambda draw: (draw.randrange(1, 8),)
        ),
        "colours": _Family(lambda grid, *colours: colour_permutation(colours).forward(grid), _draw_colours),
        "translation": _Family(
            lambda grid, *steps: translation(*steps).forward(grid),
            lambda draw: draw.choice([(down, right) for down in range(3) for right in range(3) if down or right]),
        ),
        "scaling": _Family(
            lambda grid, factor: scaling(factor, factor).forward(grid), lambda draw: (draw.choice((2, 3)),)
        ),
        "gravity": _Family(_gravity, lambda draw: (draw.randrange(4),)),
        "border": _Family(_border, lambda draw: (draw.randrange(1, COLOURS),)),
        "counting": _Family(_counting, lambda draw: (draw.randrange(1, COLOURS),)),
    }
)
FAMILIES = tuple(_FAMILIES)
_LAST = ("scaling", "border", "counting")  # they change the size: at most one of them, at the end


def draw_rule(draw: random.Random, *, families: Sequence[str], steps: int, split: Split) -> Rule | None:
    """A rule of `steps` different families that is in the split; None where there seems to be none."""
    for _ in range(_TRIES):
        chosen = draw.sample(families, min(steps, len(families)))
        last = [family for family in chosen if family in _LAST]
        if len(last) > 1:
            continue
        ordered = [family for family in chosen if family not in _LAST] + last
        rule = Rule(tuple(Step(family, _FAMILIES[family].draw(draw)) for family in ordered))
        if rule.split == split:
            return rule
    return None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the grids of a puzzle are like; ranges include both ends.

    Attributes:
        sides: Height and width of an input.
        square: Whether inputs are square, and all of a puzzle alike.
        colours: Number of different colours beside 0 in a puzzle.
        filled: Share of cells that are not 0.
        demonstrations: Number of demonstrations of a puzzle.
    """

    sides: tuple[int, int]
    square: bool
    colours: tuple[int, int]
    filled: float
    demonstrations: tuple[int, int]


def draw_puzzle(draw: random.Random, rule: Rule, shape: Shape) -> Puzzle | None:
    """A puzzle that shows the rule and can be solved from what it shows; None where none comes up.

    The test's colours are among those of the demonstrations.
    """
    for _ in range(_TRIES):
        pairs = draw_pairs(draw, rule, shape, count=draw.randint(*shape.demonstrations) + 1)
        if pairs is None:
            return None
        *demonstrations, test = pairs
        shown = {cell for pair in demonstrations for row in pair.input for cell in row}
        if shown.issuperset(cell for row in test.input for cell in row):
            return Puzzle(tuple(demonstrations), (test,))
    return None


def draw_pairs(draw: random.Random, rule: Rule, shape: Shape, *, count: int) -> list[Pair] | None:
    """Pairs that follow the rule, no two alike; None where none come up.

    The rule makes something of each input; one without steps leaves inputs as they are.
    """
    side = draw.randint(*shape.sides)
    palette = draw.sample(range(1, COLOURS), draw.randint(*shape.colours))
    pairs: dict[Grid, Pair] = {}
    for _ in range(_TRIES):
        height, width = (side, side) if shape.square else (draw.randint(*shape.sides), draw.randint(*shape.sides))
        grid = tuple(
            tuple(draw.choice(palette) if draw.random() < shape.filled else 0 for _ in range(width))
            for _ in range(height)
        )
        output = rule.apply(grid)
        fits = max(len(output), len(output[0])) <= MAX_SIDE
        if fits and output != NOTHING and (output != grid or not rule.steps):
            pairs[grid] = Pair(grid, output)
            if len(pairs) == count:
                return list(pairs.values())
    return None
