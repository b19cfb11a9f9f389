"""What a model wrote as an answer to a test, votes, and the grades of whole grids."""

import pytest

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading import Answer
from seal_lightning.tasks.arc.answers import (
    GridMatch,
    candidates,
    first_block,
    read_votes,
    reason_of,
    right_answers,
)
from seal_lightning.tasks.arc.augmentations import SYMMETRIES, scaling
from seal_lightning.tasks.arc.grids import DIGITS, GRID_TEXTS

SAME = SYMMETRIES[0].undo
TURNED, MIRRORED = SYMMETRIES[1], SYMMETRIES[4]  # a quarter clockwise; left and right


def votes(*texts):
    return read_votes(texts, [SAME] * len(texts), DIGITS)


def test_the_symmetries_that_vote():
    assert [way.name for way in SYMMETRIES] == [
        "identity",
        "rotate-90",
        "rotate-180",
        "rotate-270",
        "flip-horizontal",
        "flip-vertical",
        "transpose",
        "rotate-180+transpose",
    ]


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("12\n34", "12\n34"),
        ("\n 12\n34\n\nInput:\n5", "12\n34"),
        ("12\n\n\n34", "12"),
        ("", ""),
        (" \n\n ", ""),
    ],
)
def test_what_follows_an_empty_line_is_no_answer(text, block):
    assert first_block(text) == block


# -- votes -------------------------------------------------------------------------------------------------------------


def test_one_text_is_its_grid_in_the_canonical_encoding():
    assert votes("12\n34\n\nInput:\n9") == "12\n34"
    assert read_votes(["a b\nc d"], [SAME], GRID_TEXTS["letters"]) == "01\n23"


def test_texts_under_symmetries_are_undone():
    assert read_votes(["31\n42"], [TURNED.undo], DIGITS) == "12\n34"
    assert read_votes(["12\n34", "31\n42", "21\n43"], [SAME, TURNED.undo, MIRRORED.undo], DIGITS) == "12\n34"
    assert read_votes(["123\n456", "41\n52\n63"], [SAME, TURNED.undo], DIGITS) == "123\n456"
    grid = ((1, 2, 3), (4, 5, 6))
    images = [DIGITS.encode(way.apply(grid)) for way in SYMMETRIES]
    assert len(set(images)) == 8
    assert read_votes(images, [way.undo for way in SYMMETRIES], DIGITS) == "123\n456"


def test_the_most_frequent_grid_comes_first_and_one_more_after_it():
    assert votes("1", "2", "2") == "2\n\n1"
    assert votes("1", "2", "3", "3", "2", "3") == "3\n\n2"
    assert votes("x", "2", "12\n3", "2") == "2"


def test_ties_go_to_the_text_that_came_first():
    assert votes("5", "1", "3") == "5\n\n1"
    assert votes("9", "1", "5", "5", "1") == "1\n\n5"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no grid"),
        ("\n\n12", ""),
        ("12\n3", "ragged rows"),
        ("a: b", "not a colour"),
        ("1" * 31, "too large"),
        ("malformed grid, nonsense:", "not a colour"),
    ],
)
def test_a_text_that_is_no_grid_is_kept_behind_the_reason(text, reason):
    answer = votes(text)
    assert reason_of(answer) == reason
    assert answer == (f"malformed grid, {reason}:\n{text}" if reason else "12")
    assert candidates(answer) == ([] if reason else ["12"])


def test_of_malformed_texts_the_first_one_is_kept():
    assert votes("12\n3", "x") == "malformed grid, ragged rows:\n12\n3"


def test_a_grid_that_is_no_image_has_a_reason_too():
    assert read_votes(["12\n34"], [scaling(2, 2).undo], DIGITS) == "malformed grid, not augmented:\n12\n34"


def test_candidates_and_reason_of_answers():
    assert (candidates("12\n34"), reason_of("12\n34")) == (["12\n34"], "")
    assert (candidates("12\n\n34"), reason_of("12\n\n34")) == (["12", "34"], "")
    assert (candidates(" "), reason_of(" ")) == ([], "no grid")


# -- grades ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "one", "two"),
    [
        ("12\n34", 1.0, 1.0),
        ("12\n34\n\n55", 1.0, 1.0),
        ("55\n\n12\n34", 0.0, 1.0),
        ("12\n35", 0.0, 0.0),
        ("1234", 0.0, 0.0),
        ("malformed grid, not a colour:\n12\n34\n\n12\n34", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_only_a_wholly_right_grid_counts(answer, one, two):
    assert GridMatch().grade(question="7", golds=["12\n34"], answer=answer) == one
    assert GridMatch(tries=2).grade(question="7", golds=["12\n34"], answer=answer) == two


def test_any_gold_counts_however_it_was_written():
    assert GridMatch().grade(question="7", golds=["99", " 12\r\n34\n"], answer="12\n34") == 1.0
    assert right_answers(["12\n34\n", "12\n34", "5"]) == {"12\n34", "5"}


def test_verdicts_have_the_reason_of_a_malformed_answer():
    texts = ["12\n34", "55", "malformed grid, ragged rows:\n12\n3", ""]
    done = []
    found = GridMatch().verdicts([Answer("7", ("12\n34",), text) for text in texts], on_done=done.append)
    assert [(verdict.score, verdict.reasons) for verdict in found] == [
        (1.0, {}),
        (0.0, {}),
        (0.0, {"ragged rows": -1.0}),
        (0.0, {"no grid": -1.0}),
    ]
    assert done == [1, 1, 1, 1]


@pytest.mark.parametrize("golds", [[], ["a lake"], ["12", ""]])
def test_without_right_grids_nothing_can_be_graded(golds):
    with pytest.raises(GradingError, match="cannot grade"):
        GridMatch().grade(question="7", golds=golds, answer="12")


@pytest.mark.parametrize("tries", [0, 3, True, 1.5, "2", None])
def test_tries_are_one_or_two(tries):
    with pytest.raises(ConfigError, match="tries must be 1 or 2, got"):
        GridMatch(tries=tries)
