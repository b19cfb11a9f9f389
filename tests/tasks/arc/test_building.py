import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.errors import ConfigError
from seal_lightning.tasks.arc.augmentations import FAMILIES, augment, rotation
from seal_lightning.tasks.arc.building import _puzzle, _splits, training_puzzles
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle

ALL = tuple(FAMILIES)
AUGMENTATIONS = sum(len(family) for family in FAMILIES.values())


def pairs_of(count, *, rows=4, columns=5, seed=0):
    """Demonstrations without symmetry, so that no two augmentations of them are equal."""
    draw = random.Random(seed)

    def grid():
        return tuple(tuple(draw.choices(range(10), k=columns)) for _ in range(rows))

    return tuple(Pair(grid(), grid()) for _ in range(count))


def build(demonstrations, *families, colours=0, orders=0, limit=100_000, seed=0, **others):
    return training_puzzles(
        demonstrations,
        families=families,
        colour_permutations=colours,
        example_permutations=orders,
        limit=limit,
        seed=seed,
        **others,
    )


def leave_out(demonstrations, size):
    splits = _splits(len(demonstrations), size)
    return tuple(_puzzle(dict(enumerate(demonstrations)), split) for split in splits)


def leave_one_out(demonstrations):
    return leave_out(demonstrations, 1)


def leave_two_out(demonstrations):
    return leave_out(demonstrations, 2)


def test_one_left_out():
    a, b, c = pairs_of(3)
    assert leave_one_out([a, b, c]) == (Puzzle((b, c), (a,)), Puzzle((a, c), (b,)), Puzzle((a, b), (c,)))


def test_two_left_out():
    a, b, c = pairs_of(3)
    assert leave_two_out([a, b, c]) == (
        *(Puzzle((c,), (a,)), Puzzle((c,), (b,))),
        *(Puzzle((b,), (a,)), Puzzle((b,), (c,))),
        *(Puzzle((a,), (b,)), Puzzle((a,), (c,))),
    )


@pytest.mark.parametrize(
    ("count", "one", "two"), [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 6), (4, 4, 12), (10, 10, 90)]
)
def test_how_many_are_left_out(count, one, two):
    demonstrations = pairs_of(count)
    assert len(leave_one_out(demonstrations)) == one
    assert len(leave_two_out(demonstrations)) == two
    assert build(demonstrations) == leave_one_out(demonstrations) + leave_two_out(demonstrations)
    assert len(build(demonstrations, *ALL)) == (one + two) * (1 + AUGMENTATIONS)


def test_a_single_demonstration_is_the_test_of_a_puzzle_without_any():
    (pair,) = pairs_of(1)
    assert build([pair]) == (Puzzle((), (pair,)),)
    assert build([pair], orders=5) == (Puzzle((), (pair,)),)
    assert len(build([pair], "size", colours=1)) == 2 * (1 + 3)


def test_augmented_puzzles_follow_the_plain_ones():
    demonstrations = pairs_of(2)
    plain = leave_one_out(demonstrations)
    doubled = [augment(puzzle, augmentation) for augmentation in FAMILIES["size"] for puzzle in plain]
    tiled = [augment(puzzle, augmentation) for augmentation in FAMILIES["repeated"] for puzzle in plain]
    assert build(demonstrations, "size") == (*plain, *doubled)
    assert build(demonstrations, "size", "repeated") == (*plain, *doubled, *tiled)


@given(families=st.permutations(ALL), seed=st.integers(0, 2**40))
@settings(max_examples=10)
def test_the_order_of_families_does_not_matter(families, seed):
    demonstrations = pairs_of(3)
    expected = build(demonstrations, *ALL, colours=1, orders=1, limit=40, seed=seed)
    assert build(demonstrations, *families, families[0], colours=1, orders=1, limit=40, seed=seed) == expected
    assert build(list(demonstrations), *set(families), colours=1, orders=1, limit=40, seed=seed) == expected


def test_seeds_draw_differently():
    demonstrations = pairs_of(4)
    draws = [build(demonstrations, *ALL, colours=1, orders=1, limit=100, seed=seed) for seed in (0, 1)]
    assert draws[0] != draws[1] and draws[0][:16] == draws[1][:16]
    assert len(set(draws[0]) & set(draws[1])) < 60


def test_a_puzzle_with_a_grid_that_grows_too_large_is_left_out():
    small, large = pairs_of(2, rows=3, columns=3), pairs_of(1, rows=16, columns=3)
    puzzles = build([*small, *large], "size")
    # All fit the doubled width; doubled height and resolution have the two puzzles without the large pair only.
    assert len(puzzles) == 9 * 2 + 2 * 2
    assert max(len(pair.output) for puzzle in puzzles for pair in puzzle.pairs) == 16
    assert max(len(pair.output[0]) for puzzle in puzzles for pair in puzzle.pairs) == 6


def test_the_largest_grids():
    fifteen, thirty = pairs_of(2, rows=15, columns=15), pairs_of(2, rows=30, columns=30)
    assert len(build(fifteen, *ALL)) == 2 * (1 + AUGMENTATIONS)
    assert len(build(thirty, *ALL)) == 2 * (1 + 7)  # without the reflections
    assert build(thirty, "size", "chained", "repeated") == leave_one_out(thirty)


def test_duplicates_are_removed():
    cell = (Pair(((1,),), ((2,),)), Pair(((3,),), ((4,),)))
    assert len(build(cell, *ALL)) == 2 * 4  # a single cell, doubled to the side, downwards, or both
    same = (cell[0], cell[0], cell[0])
    assert build(same) == (Puzzle((cell[0],) * 2, (cell[0],)), Puzzle((cell[0],), (cell[0],)))
    assert len(build(cell, "basic", limit=5)) == 5


def test_copies_with_other_colours():
    demonstrations = pairs_of(2)
    puzzles = build(demonstrations, colours=3)
    assert len(puzzles) == 2 * (1 + 3)
    for place, copy in enumerate(puzzles[2:]):
        change = recolouring(puzzles[place % 2], copy)
        assert change[0] == 0 and len(set(change.values())) == len(change)
        assert change != {colour: colour for colour in change}


def recolouring(puzzle, copy):
    """The one map of colours that makes the copy."""
    change = {}
    for old, new in zip(puzzle.pairs, copy.pairs, strict=True):
        for before, after in ((old.input, new.input), (old.output, new.output)):
            for row, new_row in zip(before, after, strict=True):
                for cell, new_cell in zip(row, new_row, strict=True):
                    assert change.setdefault(cell, new_cell) == new_cell
    return change


def test_copies_in_other_orders():
    demonstrations = pairs_of(4)
    puzzles = build(demonstrations, orders=5)
    plain = leave_one_out(demonstrations) + leave_two_out(demonstrations)
    assert puzzles[:16] == plain
    assert len(puzzles) == 4 * (1 + 5) + 12 * (1 + 1)  # three have five other orders, two have one
    for puzzle in plain:
        orders = {other.demonstrations for other in puzzles if other.tests == puzzle.tests}
        assert set(permutations(puzzle.demonstrations)) <= orders


def test_a_copy_changes_both_at_once():
    demonstrations = pairs_of(3)
    puzzles = build(demonstrations, colours=1, orders=1)
    assert len(puzzles) == 9 * 2
    for puzzle, copy in zip(puzzles[:3], puzzles[9:12], strict=True):
        assert recolouring(Puzzle(puzzle.demonstrations[::-1], puzzle.tests), copy)[0] == 0
    assert len(build(demonstrations, colours=3, orders=1)) == 9 * 4


def test_copies_of_augmented_puzzles():
    demonstrations = pairs_of(2)
    puzzles = build(demonstrations, "basic", colours=1)
    assert len(puzzles) == 2 * 12 * 2
    assert puzzles[2] == augment(puzzles[0], rotation(90))
    recolouring(puzzles[2], puzzles[24 + 2])


def test_a_copy_does_not_depend_on_what_else_is_built():
    demonstrations = pairs_of(3)
    few, many = build(demonstrations, "size", colours=1), build(demonstrations, *ALL, colours=1)
    assert set(few) < set(many)


@pytest.mark.parametrize("limit", [1, 8, 9, 10, 100, 250, 431, 432, 433])
def test_the_limit_prefers_the_plain_ones(limit):
    demonstrations = pairs_of(3)
    everything = build(demonstrations, *ALL, colours=1, orders=1)
    assert len(everything) == 9 * (1 + AUGMENTATIONS) * 2
    puzzles = build(demonstrations, *ALL, colours=1, orders=1, limit=limit)
    assert len(puzzles) == min(limit, 432)
    assert len([puzzle for puzzle in puzzles if puzzle in everything[:9]]) == min(limit, 9)
    kept = set(puzzles)
    assert puzzles == tuple(puzzle for puzzle in everything if puzzle in kept)
    assert kept <= set(build(demonstrations, *ALL, colours=1, orders=1, limit=limit + 1))


def test_the_limit_is_250():
    puzzles = training_puzzles(pairs_of(4), families=ALL, colour_permutations=1, example_permutations=0, seed=3)
    assert len(puzzles) == 250  # of 16 * 24 * 2


def test_the_draw_is_even():
    counts = dict.fromkeys(build(pairs_of(2), *ALL)[2:], 0)
    for seed in range(400):
        for puzzle in build(pairs_of(2), *ALL, limit=12, seed=seed)[2:]:
            counts[puzzle] += 1
    # 10 of 46, 400 times: 87 each, with a standard deviation of 8.2
    assert min(counts.values()) > 55 and max(counts.values()) < 120


@given(
    count=st.integers(1, 4),
    rows=st.integers(1, 16),
    columns=st.integers(1, 4),
    families=st.sets(st.sampled_from(ALL)),
    colours=st.integers(0, 2),
    orders=st.integers(0, 2),
    limit=st.integers(1, 60),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_what_is_always_so(count, rows, columns, families, colours, orders, limit, seed):
    demonstrations = pairs_of(count, rows=rows, columns=columns, seed=seed)
    puzzles = build(demonstrations, *families, colours=colours, orders=orders, limit=limit, seed=seed)
    assert puzzles == build(demonstrations, *families, colours=colours, orders=orders, limit=limit, seed=seed)
    assert 1 <= len(puzzles) <= limit and len(set(puzzles)) == len(puzzles)
    for puzzle in puzzles:
        assert len(puzzle.tests) == 1 and max(1, count - 2) <= len(puzzle.pairs) <= count
        for pair in puzzle.pairs:
            assert all(1 <= len(side) <= 30 for grid in (pair.input, pair.output) for side in (grid, *grid))


def test_no_demonstrations_no_puzzles():
    assert build((), *ALL, colours=2, orders=2) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ("basic", "colour")}, "families must be of basic, size, chained, repeated, got 'colour': use"),
        ({"colour_permutations": -1}, "colour_permutations must be a whole number of at least 0, got -1"),
        ({"example_permutations": -2}, "example_permutations must be a whole number of at least 0, got -2"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options(options, message):
    defaults = {"families": (), "colour_permutations": 0, "example_permutations": 0, "seed": 0}
    with pytest.raises(ConfigError, match=message):
        training_puzzles(pairs_of(2), **(defaults | options))
