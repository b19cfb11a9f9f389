import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.tasks.arc.augmentations import (
    FAMILIES,
    SYMMETRIES,
    augment,
    chain,
    colour_permutation,
    flip,
    inverse_order,
    nth_order,
    reflection,
    reorder,
    repetition,
    rotation,
    scaling,
    translation,
    transposition,
)
from seal_lightning.tasks.arc.grids import DIGITS, GridError
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle

IN_FAMILIES = [augmentation for family in FAMILIES.values() for augmentation in family]
OTHERS = [
    *SYMMETRIES,
    translation(-2, 5),
    translation(0, 31),
    scaling(3, 1),
    repetition(1, 3),
    colour_permutation((9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
    colour_permutation((0, 2, 3, 1, 4, 5, 6, 7, 9, 8)),
    chain(reflection("left"), translation(1, 2), scaling(1, 2), rotation(270)),
    chain(colour_permutation((1, 0, 2, 3, 4, 5, 6, 7, 8, 9)), chain(flip("vertical"), repetition(2, 1))),
]
EVERY = {augmentation.name: augmentation for augmentation in [*IN_FAMILIES, *OTHERS]}


def grid(text):
    """`123/456` -> two rows of three cells."""
    return DIGITS.decode(text.replace("/", "\n"))


def text(value):
    return DIGITS.encode(value).replace("\n", "/")


def random_grid(draw, side=5):
    width = draw.randint(1, side)
    return tuple(tuple(draw.choices(range(10), k=width)) for _ in range(draw.randint(1, side)))


def random_puzzle(draw):
    def pairs(count):
        return tuple(Pair(random_grid(draw), random_grid(draw)) for _ in range(count))

    return Puzzle(pairs(draw.randint(1, 3)), pairs(1))


@pytest.fixture(scope="module")
def puzzles():
    draw = random.Random(7)
    return [random_puzzle(draw) for _ in range(1000)]


grids = st.tuples(st.integers(1, 7), st.integers(1, 7), st.randoms(use_true_random=False)).map(
    lambda drawn: tuple(tuple(drawn[2].choices(range(10), k=drawn[1])) for _ in range(drawn[0]))
)


@pytest.mark.parametrize(
    ("augmentation", "expected"),
    [
        (rotation(90), "41/52/63"),
        (rotation(180), "654/321"),
        (rotation(270), "36/25/14"),
        (flip("horizontal"), "321/654"),
        (flip("vertical"), "456/123"),
        (transposition(), "14/25/36"),
        (reflection("left"), "321123/654456"),
        (reflection("right"), "123321/456654"),
        (reflection("above"), "456/123/123/456"),
        (reflection("below"), "123/456/456/123"),
        (translation(1, 1), "645/312"),
        (translation(0, -1), "231/564"),
        (translation(4, 5), "231/564"),
        (scaling(2, 2), "112233/112233/445566/445566"),
        (scaling(2, 1), "123/123/456/456"),
        (scaling(1, 2), "112233/445566"),
        (repetition(1, 2), "123123/456456"),
        (repetition(2, 1), "123/456/123/456"),
        (repetition(2, 2), "123123/456456/123123/456456"),
        (colour_permutation((0, 2, 1, 3, 9, 5, 6, 7, 8, 4)), "213/956"),
        (chain(), "123/456"),
        (chain(rotation(90), scaling(2, 2)), "4411/4411/5522/5522/6633/6633"),
        (chain(scaling(1, 2), rotation(90), flip("vertical")), "63/63/52/52/41/41"),
        (chain(rotation(180), transposition()), "63/52/41"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_becomes_of_a_grid(augmentation, expected):
    assert text(augmentation.apply(grid("123/456"))) == expected
    assert text(augmentation.undo(grid(expected))) == "123/456"


def test_the_smallest_grid():
    images = {text(augmentation.apply(((3,),))) for augmentation in IN_FAMILIES}
    assert images == {"3", "33", "3/3", "33/33"}


@pytest.mark.parametrize("name", EVERY)
def test_the_inverse_restores_a_thousand_puzzles(name, puzzles):
    for puzzle in puzzles:
        changed = augment(puzzle, EVERY[name])
        for before, after in zip(puzzle.pairs, changed.pairs, strict=True):
            assert Pair(EVERY[name].undo(after.input), EVERY[name].undo(after.output)) == before


@given(value=grids, names=st.lists(st.sampled_from(sorted(EVERY)), max_size=4))
@settings(max_examples=200)
def test_a_chain_is_its_steps_in_turn(value, names):
    steps = [EVERY[name] for name in names]
    expected = value
    for step in steps:
        try:
            expected = step.apply(expected)
        except GridError:
            with pytest.raises(GridError, match=r"^too large: "):
                chain(*steps).apply(value)
            return
    assert chain(*steps).apply(value) == expected
    assert chain(*steps).undo(expected) == value


@given(value=grids, name=st.sampled_from(sorted(EVERY)))
@settings(max_examples=300)
def test_undo_gives_an_original_or_an_error(value, name):
    try:
        original = EVERY[name].undo(value)
    except GridError as error:
        assert error.reason == "not augmented"
    else:
        assert EVERY[name].apply(original) == value


@pytest.mark.parametrize(
    ("augmentation", "answer"),
    [
        (scaling(2, 2), "112/112"),  # an odd side
        (scaling(2, 2), "1122/1123"),
        (scaling(2, 2), "1221/1221"),
        (scaling(2, 1), "1"),
        (scaling(1, 2), "1/1"),
        (repetition(1, 2), "1213"),
        (repetition(2, 1), "12/12/12"),
        (repetition(2, 2), "1212"),
        (reflection("left"), "1212"),
        (reflection("right"), "12321"),
        (reflection("above"), "12"),
        (reflection("below"), "12/21"),
        (chain(rotation(90), scaling(2, 2)), "123/456"),
        (chain(scaling(2, 2), rotation(90)), "123/456"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_answer_that_is_no_image(augmentation, answer):
    with pytest.raises(GridError) as caught:
        augmentation.undo(grid(answer))
    assert caught.value.reason == "not augmented"


def test_the_error_names_the_size_and_the_augmentation():
    with pytest.raises(GridError, match=r"^not augmented: no grid becomes this one of 1 x 3 by scale-1x2$"):
        scaling(1, 2).undo(((1, 1, 2),))
    with pytest.raises(GridError, match=r"^too large: 16 x 1 becomes 32 x 2 by scale-2x2$"):
        scaling(2, 2).apply(((0,),) * 16)


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), name=st.sampled_from(sorted(EVERY)))
@settings(max_examples=200)
def test_no_image_is_larger_than_30(rows, columns, name):
    try:
        image = EVERY[name].apply(((5,) * columns,) * rows)
    except GridError as error:
        assert error.reason == "too large"
    else:
        assert max(len(image), len(image[0])) <= 30 and EVERY[name].undo(image) == ((5,) * columns,) * rows


@pytest.mark.parametrize("augmentation", [*SYMMETRIES, translation(1, 1)], ids=lambda each: each.name)
def test_what_keeps_the_size_fits_always(augmentation):
    assert augmentation.apply(((1,) * 30,) * 30) == ((1,) * 30,) * 30


@pytest.mark.parametrize("family", ["size", "chained", "repeated"])
def test_doubling_fits_up_to_15(family):
    for augmentation in FAMILIES[family]:
        image = augmentation.apply(((1,) * 15,) * 15)
        assert max(len(image), len(image[0])) == 30
        with pytest.raises(GridError, match="too large"):
            augmentation.apply(((1,) * 16,) * 16)


def test_families():
    turns = "rotate-90 rotate-180 rotate-270 flip-horizontal flip-vertical transpose"
    expected = {
        "basic": f"{turns} reflect-left reflect-right reflect-above reflect-below translate-1-1".split(),
        "size": ["scale-2x2", "scale-2x1", "scale-1x2"],
        "chained": [f"{turn}+scale-2x2" for turn in turns.split()],
        "repeated": ["repeat-1x2", "repeat-2x1", "repeat-2x2"],
    }
    assert {family: [each.name for each in members] for family, members in FAMILIES.items()} == expected


def test_symmetries_are_the_group_of_the_square():
    square = grid("123/456/789")
    images = {symmetry.apply(square) for symmetry in SYMMETRIES}
    assert len(images) == 8 and SYMMETRIES[0].apply(square) == square
    assert {second.apply(first.apply(square)) for first in SYMMETRIES for second in SYMMETRIES} == images


def test_a_puzzle_is_augmented_as_a_whole():
    puzzle = Puzzle((Pair(grid("12"), grid("1")),), (Pair(grid("10/20"), grid("2")), Pair(grid("3"), grid("123"))))
    doubled = augment(puzzle, scaling(1, 2))
    assert doubled.demonstrations == (Pair(grid("1122"), grid("11")),)
    assert doubled.tests == (Pair(grid("1100/2200"), grid("22")), Pair(grid("33"), grid("112233")))
    with pytest.raises(GridError, match="not augmented"):
        scaling(1, 2).undo(puzzle.tests[1].input)


@given(order=st.permutations(range(5)))
def test_reordered_demonstrations(order):
    pairs = tuple(Pair(((number,),), ((number + 1,),)) for number in range(5))
    puzzle = Puzzle(pairs, pairs[:1])
    changed = reorder(puzzle, order)
    assert [pair.input[0][0] for pair in changed.demonstrations] == order and changed.tests == puzzle.tests
    assert reorder(changed, inverse_order(order, 5)) == puzzle


def test_orders_are_numbered():
    orders = [nth_order(4, number) for number in range(24)]
    assert orders[0] == (0, 1, 2, 3) and orders[23] == (3, 2, 1, 0) and orders == sorted(set(orders))
    assert inverse_order((2, 0, 1), 3) == (1, 2, 0)
    assert nth_order(0, 0) == ()


@pytest.mark.parametrize("order", [(0, 1), (0, 0, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_wrong_orders(order):
    puzzle = Puzzle((Pair(((1,),), ((1,),)),) * 3, ())
    with pytest.raises(ValueError, match="expected an order of 0 to 2, each once, got"):
        reorder(puzzle, order)
    with pytest.raises(ValueError, match="expected an order of 0 to 9, each once, got"):
        colour_permutation(order)


def test_augmentations_are_values():
    assert rotation(90) == FAMILIES["basic"][0] and rotation(90) != rotation(180)
    assert chain(rotation(90), scaling(2, 2)) in FAMILIES["chained"]
    assert translation(1, 1) != translation(1, 11) and len(EVERY) == len(set(EVERY.values()))
    for augmentation in EVERY.values():
        copy = pickle.loads(pickle.dumps(augmentation))
        assert copy == augmentation and copy.apply(grid("12/34")) == augmentation.apply(grid("12/34"))
