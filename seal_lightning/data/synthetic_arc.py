"""Synthetic puzzles as data: any number, of a chosen difficulty, with different rules in each split."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from seal_lightning.data.base import Reader, check_texts
from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.arc.puzzles import context_of
from seal_lightning.tasks.arc.rules import FAMILIES, SPLITS, Shape, Split, draw_puzzle, draw_rule
from seal_lightning.types import Context

Difficulty = Literal["easy", "standard", "hard"]
_TRIES = 50  # rules and puzzles tried for each puzzle before giving up


@dataclass(frozen=True, slots=True)
class PuzzleLevel:
    """What makes a puzzle hard: the steps of its rule, and the shape of its grids."""

    steps: int
    shape: Shape


LEVELS: Mapping[Difficulty, PuzzleLevel] = {
    "easy": PuzzleLevel(1, Shape(sides=(3, 3), square=True, colours=(2, 4), filled=0.8, demonstrations=(3, 3))),
    "standard": PuzzleLevel(2, Shape(sides=(3, 5), square=True, colours=(2, 5), filled=0.7, demonstrations=(3, 4))),
    "hard": PuzzleLevel(3, Shape(sides=(3, 9), square=False, colours=(3, 8), filled=0.6, demonstrations=(3, 5))),
}


class SyntheticArc(Reader):
    """Puzzles of grids made from rules; no rule is in two splits, and no two puzzles of a reader follow the same one.

    Args:
        split: train, validation or test, each with rules of its own.
        count: How many puzzles.
        difficulty: `easy` (a rule of one step, 3 x 3), `standard` (two steps, up to 5 x 5) or `hard` (three steps, any
            shape up to 9 x 9).
        families: Where the steps are taken from: symmetry, colours, translation, scaling, gravity, border, counting.
        steps: How many steps a rule has, each of another family; the difficulty's where unset.
        seed: Seed of the rules and grids.
        edits: Self-edits written beforehand, for every puzzle.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        count: int = 12,
        difficulty: Difficulty = "easy",
        families: Sequence[str] = FAMILIES,
        steps: int | None = None,
        seed: int = 0,
        edits: Sequence[str] = (),
    ) -> None:
        for name, value, allowed in (("split", split, SPLITS), ("difficulty", difficulty, get_args(Difficulty))):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}: use one of them")
        if isinstance(families, str) or not families or not set(families) <= set(FAMILIES):
            raise ConfigError(f"families must be some of {', '.join(FAMILIES)}, got {families!r}: list their names")
        for name, value in (("count", count), ("steps", LEVELS[difficulty].steps if steps is None else steps)):
            check_count(name, value)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed must be a whole number, got {seed!r}: try 0")
        check_texts("edits", edits)
        self.split: Split = split
        self.count = count
        self.level = LEVELS[difficulty]
        self.families = tuple(dict.fromkeys(families))
        self.steps = self.level.steps if steps is None else steps
        self.seed = seed
        self.edits = tuple(edits)
        if self.steps > len(self.families):
            raise ConfigError(
                f"steps must be at most {len(self.families)}, the number of families, got {self.steps}: a rule has "
                "each family once"
            )

    @property
    def source(self) -> str:
        return f"synthetic {self.split} puzzles"

    def read(self) -> list[Context]:
        draw = random.Random(derive_seed("synthetic puzzles", self.split, self.seed))
        names: set[str] = set()
        contexts: list[Context] = []
        for _ in range(_TRIES * self.count):
            if len(contexts) == self.count:
                break
            rule = draw_rule(draw, families=self.families, steps=self.steps, split=self.split)
            if rule is None or rule.name in names or (puzzle := draw_puzzle(draw, rule, self.level.shape)) is None:
                continue
            names.add(rule.name)
            contexts.append(
                context_of(puzzle, id=f"{self.split}-{len(contexts):03d}", title=rule.name, edits=self.edits)
            )
        if len(contexts) < self.count:
            raise DataError(
                f"{self.source}: expected {self.count} different rules of {self.steps} of the families "
                f"{', '.join(self.families)}, got {len(contexts)}: ask for fewer, or name more families"
            )
        return contexts
