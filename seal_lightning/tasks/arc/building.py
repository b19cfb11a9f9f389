"""From the demonstrations of one puzzle to the puzzles that an adapter is trained on (SEAL, section 4.1).

The tests of a puzzle are never touched: its demonstrations take turns as the test of smaller puzzles, those are
augmented, and copies change colours and order. What becomes of the puzzles as text is the task's to say.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain, combinations, product
from math import factorial
from operator import itemgetter
from typing import NamedTuple

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.arc.augmentations import (
    FAMILIES,
    Augmentation,
    augment,
    augment_pair,
    colour_permutation,
    nth_order,
    reorder,
)
from seal_lightning.tasks.arc.grids import COLOURS, GridError
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle


class _Split(NamedTuple):
    """Which demonstrations stay ones, and which is the test."""

    kept: tuple[int, ...]
    test: int


class _Variant(NamedTuple):
    """The demonstrations under one augmentation (or none, with an empty name), without those that become too large."""

    name: str
    pairs: dict[int, Pair]


def _splits(count: int, size: int) -> list[_Split]:
    """Each `size` of `count` demonstrations left out, each of them once as the test of the rest.

    The puzzles of ARC-AGI-1 and 2 have 2 to 10 demonstrations. A single one leaves nothing to learn from but itself: it
    becomes the test of a puzzle without demonstrations. Two are left out only where others remain.
    """
    if size > 1 and count <= size:
        return []
    return [
        _Split(tuple(number for number in range(count) if number not in left_out), test)
        for left_out in combinations(range(count), size)
        for test in left_out
    ]


def _puzzle(pairs: dict[int, Pair], split: _Split) -> Puzzle:
    return Puzzle(tuple(pairs[number] for number in split.kept), (pairs[split.test],))


def training_puzzles(
    demonstrations: Sequence[Pair],
    *,
    families: Collection[str],
    colour_permutations: int,
    example_permutations: int,
    limit: int = 250,
    seed: int,
) -> tuple[Puzzle, ...]:
    """The puzzles of test-time training, each with one test, no two alike.

    First come the puzzles with one demonstration left out as the test, those with two left out, then all of these under
    each augmentation, then copies of everything. Where there are more than `limit`, a draw decides which stay, and
    takes an augmented puzzle or a copy only when all plain ones are in; a larger limit keeps whatever a smaller one
    does. Equal arguments give equal puzzles.

    Args:
        demonstrations: The demonstrations of one puzzle.
        families: Names of `FAMILIES`, in any order. A puzzle that would have a grid of more than 30 x 30 is left out.
        colour_permutations: Number of copies of each puzzle with their colours exchanged, but for 0, the background of
            most; one that looks like another because the puzzle has few colours is dropped.
        example_permutations: Number of copies with their demonstrations in another order, as far as there are others.
            The first copy has both changed where both are asked for, so there are as many as the larger number.
        limit: The most puzzles.
        seed: Seed of the copies and the draw.

    Raises:
        ConfigError: An argument is out of its range.
    """
    check_count("colour_permutations", colour_permutations, least=0)
    check_count("example_permutations", example_permutations, least=0)
    check_count("limit", limit)
    variants = _variants(demonstrations, families)
    splits = [*_splits(len(demonstrations), 1), *_splits(len(demonstrations), 2)]
    build = partial(
        _build, colour_permutations=colour_permutations, example_permutations=example_permutations, seed=seed
    )
    fitting = [
        (variant, split)
        for variant, split in product(variants, splits)
        if variant.pairs.keys() >= {*split.kept, split.test}
    ]
    count = 1 + max(colour_permutations, example_permutations)
    recipes = list(product(range(count), fitting))
    # Nothing is built before it is drawn: copies of many augmented puzzles are many more than the limit.
    plain, others = list(range(len(splits))), list(range(len(splits), len(recipes)))
    draw = random.Random(derive_seed("training puzzles", seed))
    draw.shuffle(plain)
    draw.shuffle(others)
    chosen: dict[Puzzle, int] = {}  # with the number of the first recipe for it
    for number in plain + others:
        if len(chosen) == limit:
            break
        puzzle = build(*recipes[number])
        if number < chosen.setdefault(puzzle, number):
            chosen[puzzle] = number
    return tuple(puzzle for puzzle, _ in sorted(chosen.items(), key=itemgetter(1)))


def _variants(demonstrations: Sequence[Pair], families: Collection[str]) -> list[_Variant]:
    for name in families:
        if name not in FAMILIES:
            raise ConfigError(f"families must be of {', '.join(FAMILIES)}, got {name!r}: use these names")
    augmentations = chain.from_iterable(each for family, each in FAMILIES.items() if family in families)
    plain = _Variant("", dict(enumerate(demonstrations)))
    return [plain, *(_variant(demonstrations, augmentation) for augmentation in augmentations)]


def _variant(demonstrations: Sequence[Pair], augmentation: Augmentation) -> _Variant:
    pairs: dict[int, Pair] = {}
    for number, pair in enumerate(demonstrations):
        try:
            pairs[number] = augment_pair(pair, augmentation)
        except GridError:  # too large
            continue
    return _Variant(augmentation.name, pairs)


def _build(
    copy: int, which: tuple[_Variant, _Split], *, colour_permutations: int, example_permutations: int, seed: int
) -> Puzzle:
    """The puzzle (copy 0) or one of its copies, which do not depend on what else is built."""
    variant, split = which
    puzzle = _puzzle(variant.pairs, split)
    if not copy:
        return puzzle
    draw = random.Random(derive_seed("training copies", seed, variant.name, split.test, *split.kept))
    colours = _numbers(draw, factorial(COLOURS - 1), colour_permutations)
    orders = _numbers(draw, factorial(len(puzzle.demonstrations)), example_permutations)
    if copy <= len(colours):
        new = nth_order(COLOURS - 1, colours[copy - 1])
        puzzle = augment(puzzle, colour_permutation((0, *(1 + colour for colour in new))))
    if copy <= len(orders):
        puzzle = reorder(puzzle, nth_order(len(puzzle.demonstrations), orders[copy - 1]))
    return puzzle


def _numbers(draw: random.Random, orders: int, count: int) -> list[int]:
    """Numbers of different orders but the first, which changes nothing; fewer than `count` where there are fewer."""
    return draw.sample(range(1, orders), min(count, orders - 1))
