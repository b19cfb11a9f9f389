"""Rules of synthetic puzzles: what families do to literal grids, which split a rule is in, and what puzzles show."""

import random
from dataclasses import replace

import pytest

from seal_lightning.tasks.arc.augmentations import SYMMETRIES
from seal_lightning.tasks.arc.rules import FAMILIES, NOTHING, SPLITS, Rule, Shape, Step, draw_puzzle, draw_rule

SQUARE = ((1, 2), (3, 4))
MIXED = ((5, 0, 0), (0, 6, 7))
SMALL = Shape(sides=(3, 3), square=True, colours=(2, 4), filled=0.8, demonstrations=(2, 4))


def rule(*steps) -> Rule:
    return Rule(tuple(Step(family, tuple(parameters)) for family, *parameters in steps))


def rules(split, *, families=FAMILIES, steps=1, draws=60, seed=0) -> list[Rule]:
    draw = random.Random(seed)
    found = [draw_rule(draw, families=families, steps=steps, split=split) for _ in range(draws)]
    return [one for one in found if one is not None]


# -- what rules do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (("symmetry", 1), SQUARE, ((3, 1), (4, 2))),
        (("symmetry", 2), SQUARE, ((4, 3), (2, 1))),
        (("symmetry", 3), SQUARE, ((2, 4), (1, 3))),
        (("symmetry", 4), SQUARE, ((1, 3), (2, 4))),
        (("symmetry", 5), SQUARE, ((2, 1), (4, 3))),
        (("symmetry", 6), SQUARE, ((4, 2), (3, 1))),
        (("symmetry", 7), SQUARE, ((3, 4), (1, 2))),
        (("symmetry", 1), MIXED, ((0, 5), (6, 0), (7, 0))),
        (("colours", 0, 2, 3, 1, 5, 4, 7, 6, 9, 8), MIXED, ((4, 0, 0), (0, 7, 6))),
        (("translation", 1, 0), MIXED, ((0, 6, 7), (5, 0, 0))),
        (("translation", 0, 1), MIXED, ((0, 5, 0), (7, 0, 6))),
        (("translation", 2, 2), MIXED, ((0, 0, 5), (6, 7, 0))),  # two rows are back where they were
        (("scaling", 2), ((1, 2),), ((1, 1, 2, 2), (1, 1, 2, 2))),
        (("gravity", 0), MIXED, ((0, 0, 0), (5, 6, 7))),  # down
        (("gravity", 1), MIXED, ((0, 0, 5), (0, 6, 7))),  # to the right
        (("gravity", 2), MIXED, ((5, 6, 7), (0, 0, 0))),  # up
        (("gravity", 3), MIXED, ((5, 0, 0), (6, 7, 0))),  # to the left
        (("gravity", 0), ((1, 0), (0, 2), (3, 0)), ((0, 0), (1, 0), (3, 2))),  # in their order
        (("border", 9), ((1, 2),), ((9, 9, 9, 9), (9, 1, 2, 9), (9, 9, 9, 9))),
        (("counting", 3), ((3, 0, 3), (1, 3, 0)), ((3, 3, 3),)),
        (("counting", 3), ((1, 2),), NOTHING),
    ],
)
def test_a_step(step, before, after):
    assert rule(step).apply(before) == after


def test_steps_come_one_after_the_other():
    chained = rule(("gravity", 0), ("symmetry", 5), ("border", 1))
    assert chained.name == "gravity(0)+symmetry(5)+border(1)"
    assert chained.apply(MIXED) == ((1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (1, 7, 6, 5, 1), (1, 1, 1, 1, 1))
    assert (Rule(()).name, Rule(()).apply(MIXED)) == ("", MIXED)


def test_symmetries_are_the_seven_that_change_something():
    grid = ((1, 2, 3), (4, 5, 6))
    images = [rule(("symmetry", number)).apply(grid) for number in range(1, 8)]
    assert {*images} == {way.apply(grid) for way in SYMMETRIES} - {grid}


@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_steps_are_of_their_family_and_have_different_parameters(family):
    found = {one.name for split in SPLITS for one in rules(split, families=(family,), draws=12)}
    assert len(found) > 1 and {name.partition("(")[0] for name in found} == {family}


def test_a_rule_has_each_family_once_and_what_changes_the_size_at_the_end():
    for one in rules("train", steps=3, draws=200):
        families = [step.family for step in one.steps]
        assert len({*families}) == 3
        assert not {"scaling", "border", "counting"} & {*families[:-1]}


def test_colours_keep_the_background_and_change_every_other():
    for one in rules("train", families=("colours",)):
        new = one.steps[0].parameters
        assert new[0] == 0 and sorted(new) == list(range(10))
        assert all(new[colour] != colour for colour in range(1, 10))


# -- splits ------------------------------------------------------------------------------------------------------------


def test_names_decide_the_split_for_ever():
    """Weights and figures rest on these: another digest would let them be tested on what they were trained on."""
    symmetries = [rule(("symmetry", number)).split for number in range(1, 8)]
    assert symmetries == ["test", "train", "test", "train", "validation", "train", "train"]
    assert [rule(("gravity", turns)).split for turns in range(4)] == ["test", "train", "validation", "test"]
    assert [rule(("scaling", factor)).split for factor in (2, 3)] == ["validation", "test"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_rule_is_in_two_splits_and_all_have_some(steps):
    names = {split: {one.name for one in rules(split, steps=steps, draws=200)} for split in SPLITS}
    assert min(map(len, names.values())) > 3
    assert sum(map(len, names.values())) == len(set().union(*names.values()))


def test_shares_of_the_splits():
    found = [rule(("colours", 0, *random.Random(seed).sample(range(1, 10), 9))).split for seed in range(2000)]
    assert [round(found.count(split) / 2000, 1) for split in SPLITS] == [0.6, 0.2, 0.2]


def test_where_there_is_no_rule():
    draw = random.Random(0)
    assert draw_rule(draw, families=("scaling", "border"), steps=2, split="train") is None  # both would come last
    assert draw_rule(draw, families=("scaling",), steps=1, split="train") is None  # 2 and 3 are in other splits


# -- puzzles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("steps", [1, 2])
def test_puzzles_follow_their_rule_and_can_be_solved(split, steps):
    draw = random.Random(1)
    for one in rules(split, steps=steps, draws=30):
        puzzle = draw_puzzle(draw, one, SMALL)
        if puzzle is None:
            continue
        (test,) = puzzle.tests
        inputs = [pair.input for pair in puzzle.pairs]
        assert [one.apply(grid) for grid in inputs] == [pair.output for pair in puzzle.pairs]
        assert len({*inputs}) == len(inputs) and 2 <= len(puzzle.demonstrations) <= 4
        assert {(len(grid), len(grid[0])) for grid in inputs} == {(3, 3)}
        shown = {cell for pair in puzzle.demonstrations for row in pair.input for cell in row}
        assert {cell for row in test.input for cell in row} <= shown
        assert all(pair.output not in (pair.input, NOTHING) for pair in puzzle.pairs)


def test_shapes():
    wide = replace(SMALL, sides=(3, 9), square=False)
    turned = rule(("symmetry", 1))
    sizes = {
        (len(pair.input), len(pair.input[0]))
        for seed in range(20)
        for pair in draw_puzzle(random.Random(seed), turned, wide).pairs
    }
    assert len(sizes) > 20 and {side for size in sizes for side in size} == {*range(3, 10)}


def test_a_rule_without_steps_leaves_grids_as_they_are():
    puzzle = draw_puzzle(random.Random(0), Rule(()), SMALL)
    assert all(pair.input == pair.output for pair in puzzle.pairs)


def test_equal_seeds_give_equal_puzzles():
    turned = rule(("symmetry", 2))
    first, again, other = (draw_puzzle(random.Random(seed), turned, SMALL) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("one", "shape"),
    [
        (rule(("scaling", 3)), replace(SMALL, sides=(11, 11))),  # 33 x 33
        (rule(("symmetry", 1)), replace(SMALL, filled=0.0)),  # nothing to be seen
        (rule(("symmetry", 1)), replace(SMALL, sides=(1, 1))),  # nothing changes
    ],
)
def test_where_there_is_no_puzzle(one, shape):
    assert draw_puzzle(random.Random(0), one, shape) is None
