"""Grids and puzzles as text and back: exact texts, and a reason for whatever is no grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.tasks.arc.grids import DIGITS, GRID_TEXTS, GridError, grid_text, make_grid
from seal_lightning.tasks.arc.puzzles import (
    Pair,
    Puzzle,
    context_of,
    demonstrations_of,
    input_of,
    puzzle_of,
    write_demonstrations,
    write_input,
)
from seal_lightning.types import Context, Query

GRID = ((0, 1, 2), (3, 4, 9))
FIRST, SECOND, TEST = Pair(((1, 2),), ((2, 1),)), Pair(((3,), (4,)), ((4,), (3,))), Pair(((5, 6),), ((6, 5),))
PUZZLE = Puzzle((FIRST, SECOND), (TEST, FIRST))
PASSAGE = "Input:\n12\nOutput:\n21\n\nInput:\n3\n4\nOutput:\n4\n3"


# -- grids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"), [("digits", "012\n349"), ("spaced", "0 1 2\n3 4 9"), ("letters", "a b c\nd e j")]
)
def test_encodings(name, text):
    encoding = grid_text(name)
    assert encoding.encode(GRID) == text
    assert encoding.decode(text) == GRID
    assert encoding.decode(f"\n  {text} \r\n\n".replace("\n", " \r\n")) == GRID


@given(
    grid=st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 9), min_size=size[1], max_size=size[1]).map(tuple),
            min_size=size[0],
            max_size=size[0],
        ).map(tuple)
    ),
    name=st.sampled_from(list(GRID_TEXTS)),
)
def test_what_is_written_is_read_again(grid, name):
    assert grid_text(name).decode(grid_text(name).encode(grid)) == grid == make_grid([list(row) for row in grid])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("digits", "", "no grid"),
        ("digits", " \n\t\n", "no grid"),
        ("digits", "12\n3", "ragged rows"),
        ("digits", "12\n\n34", "ragged rows"),
        ("digits", "1 2\n3 4", "not a colour"),
        ("digits", "12\n3a", "not a colour"),
        ("digits", "12,34", "not a colour"),
        ("digits", "١٢", "not a colour"),  # digits to Python, but no symbols of ours
        ("digits", "Output:\n12", "not a colour"),
        ("digits", "1" * 31, "too large"),
        ("digits", "1\n" * 31, "too large"),
        ("spaced", "12\n34", "not a colour"),
        ("spaced", "1  2", "not a colour"),
        ("spaced", "1 2\n\n3 4", "not a colour"),
        ("letters", "a k", "not a colour"),
        ("letters", "A B", "not a colour"),
        ("letters", "1 2", "not a colour"),
    ],
)
def test_what_is_no_grid_has_a_reason(name, text, reason):
    with pytest.raises(GridError) as caught:
        grid_text(name).decode(text)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{reason}: ")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no grid"),
        ([[]], "no grid"),
        (None, "no grid"),
        ("12", "no grid"),
        (["12", "34"], "no grid"),
        ({0: [1]}, "no grid"),
        ([1, 2], "no grid"),
        ([[1, 2], [3]], "ragged rows"),
        ([[1], []], "ragged rows"),
        ([[10]], "not a colour"),
        ([[-1]], "not a colour"),
        ([[True]], "not a colour"),
        ([[1.0]], "not a colour"),
        ([["1"]], "not a colour"),
        ([[None]], "not a colour"),
        ([[1] * 31], "too large"),
        ([[1]] * 31, "too large"),
    ],
)
def test_lists_that_are_no_grid_have_a_reason(rows, reason):
    with pytest.raises(GridError) as caught:
        make_grid(rows)
    assert caught.value.reason == reason


def test_the_largest_grid_is_one():
    largest = ((7,) * 30,) * 30
    assert make_grid([[7] * 30] * 30) == DIGITS.decode("\n".join(["7" * 30] * 30)) == largest


@pytest.mark.parametrize("name", ["digit", "", None, ["digits"]])
def test_unknown_encodings_are_refused(name):
    with pytest.raises(ConfigError, match="grids must be one of digits, spaced, letters, got"):
        grid_text(name)


# -- puzzles -----------------------------------------------------------------------------------------------------------


def test_pairs_as_text():
    assert write_demonstrations([FIRST]) == "Input:\n12\nOutput:\n21"
    assert write_input(SECOND.input, GRID_TEXTS["letters"]) == "Input:\nd\ne\nOutput:\n"
    assert write_demonstrations(PUZZLE.demonstrations) == PASSAGE
    assert write_demonstrations((FIRST,), GRID_TEXTS["spaced"]) == "Input:\n1 2\nOutput:\n2 1"
    assert PUZZLE.pairs == (FIRST, SECOND, TEST, FIRST)


def test_a_puzzle_is_a_context_and_back():
    context = context_of(PUZZLE, id="swap", edits=("{}",))
    assert context == Context(
        id="swap",
        title="swap",
        passage=PASSAGE,
        queries=(Query("56", ("65",)), Query("12", ("21",))),
        edits=("{}",),
    )
    assert puzzle_of(context) == PUZZLE
    assert demonstrations_of(context) == (FIRST, SECOND)
    assert input_of(context.queries[0], context) == TEST.input
    assert context_of(PUZZLE, id="swap", title="Swap").title == "Swap"


def test_white_space_around_demonstrations_does_not_matter():
    context = Context("swap", "", f"\n{PASSAGE.replace('21', '21  ')}\n\n")
    assert demonstrations_of(context) == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("passage", "said"),
    [
        ("", "a demonstration without Input: and Output:"),
        ("The lamp burns oil.", "a demonstration without Input: and Output:"),
        ("Input:\n12\n", "a demonstration without Input: and Output:"),
        ("12\nOutput:\n21\n", "a demonstration without Input: and Output:"),
        ("Input:\nOutput:\n21", "no grid: it has no cells"),
        ("Input:\n1 2\nOutput:\n2 1", "not a colour: row 1 has ' '"),
        (f"{PASSAGE}\n\nInput:\n5", "a demonstration without Input: and Output:"),
    ],
)
def test_a_passage_without_demonstrations_is_refused(passage, said):
    with pytest.raises(DataError, match=rf"context 'x': expected a passage of demonstrations .*, got .*{said}"):
        demonstrations_of(Context("x", "", passage))


@pytest.mark.parametrize("query", [Query("Why?", ("12",)), Query("12", ("a lake",))])
def test_queries_that_are_no_grids_are_refused(query):
    said = "context 'x': expected grids of digits as queries and golds, got not a colour: .*: read puzzles with"
    with pytest.raises(DataError, match=said):
        puzzle_of(Context("x", "", PASSAGE, queries=(query,)))
