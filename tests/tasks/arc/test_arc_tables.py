"""The tables of ARC by hand: pairs, votes over edits, cells, choices and reasons."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from samples import BARE

from seal_lightning.tasks.arc.tables import arc_tables, choices_table, configurations_table, rows_table

RIGHT, OTHER, WRONG = "12\n34", "12\n30", "12"  # all right; three cells of four; another shape
RAGGED = "malformed grid, ragged rows:\n12\n3"
CHOSE = {"basic": True, "size": False, "chained": False, "repeated": False, "loss": "outputs"}
BASE = replace(BARE, asked=CHOSE, questions=("7",), golds=((RIGHT,),), baseline_answers=(OTHER,))


def edit(index, *answers, context="a", **fields):
    fields = {"golds": ((RIGHT,),) * len(answers), "baseline_answers": (OTHER,) * len(answers), **fields}
    return replace(BASE, context_id=context, edit_index=index, answers=answers, **fields)


def rejected(index, reason, context="a"):
    return replace(BASE, context_id=context, edit_index=index, status="rejected", reason=reason)


def named(validations):
    """The rows, by what their columns hold."""
    rows = rows_table(validations).rows
    names = ("name", "success", "interval", "once", "twice", "cells", "malformed", "valid", "contexts", "pairs")
    found = [SimpleNamespace(**dict(zip(names, cells, strict=True))) for cells in rows]
    return [SimpleNamespace(**vars(row), solved=(row.once, row.twice)) for row in found]


def row(*rollouts):
    """The row of self-edits."""
    (found,) = [row for row in named({0: rollouts}) if row.name == "self-edits"]
    return found


# -- pairs and cells ---------------------------------------------------------------------------------------------------


def test_a_rejected_edit_is_a_pair_that_failed():
    found = row(edit(0, RIGHT), rejected(1, "broken JSON"), edit(0, OTHER, context="b"), edit(1, RAGGED, context="b"))
    assert (found.success, found.contexts, found.pairs) == (0.25, 2, 4)
    assert found.interval == "n = 2"  # of two contexts
    assert found.valid == "0.750"
    assert found.malformed == "0.333"
    assert found.cells == pytest.approx((1.0 + 0.0 + 0.75 + 0.0) / 4)


def test_contexts_count_alike_however_many_edits_they_have():
    found = row(edit(0, RIGHT), edit(0, OTHER, context="b"), edit(1, OTHER, context="b"), edit(2, OTHER, context="b"))
    assert (found.success, found.cells, found.pairs) == (0.5, 0.875, 4)


def test_every_test_has_to_be_right():
    assert row(edit(0, RIGHT, RIGHT)).success == 1.0
    half = row(edit(0, RIGHT, OTHER))
    assert (half.success, half.solved, half.cells) == (0.0, (0.0, 0.0), 0.875)


def test_only_the_first_candidate_is_the_first_try():
    found = row(edit(0, f"{OTHER}\n\n{RIGHT}"))
    assert (found.success, found.solved, found.cells) == (0.0, (0.0, 1.0), 0.75)


def test_repeats_of_an_edit_are_one_pair():
    found = row(edit(0, RIGHT), edit(0, OTHER, repeat=1), edit(1, OTHER), edit(1, OTHER, repeat=1))
    assert (found.pairs, found.success) == (2, 0.25)


@pytest.mark.parametrize(
    ("answer", "cells"),
    [(RIGHT, 1.0), (OTHER, 0.75), ("00\n00", 0.0), (WRONG, 0.0), ("1234", 0.0), (RAGGED, 0.0), ("", 0.0)],
)
def test_cells_count_where_the_shape_is_right(answer, cells):
    assert row(edit(0, answer)).cells == cells


def test_the_best_of_several_right_outputs_counts():
    both = replace(edit(0, OTHER), golds=(("99\n99", "12\n 31 \n"),))
    assert row(both).cells == 0.75
    assert row(replace(both, answers=("12\n31",))).success == 1.0


# -- votes over the edits of a context ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "solved"),
    [
        ([OTHER, RIGHT, RIGHT], (1.0, 1.0)),
        ([RIGHT, OTHER], (1.0, 1.0)),  # a tie goes to the first one
        ([OTHER, RIGHT], (0.0, 1.0)),
        ([OTHER, WRONG, RIGHT], (0.0, 0.0)),
        ([OTHER, WRONG, f"{RIGHT}\n\n{OTHER}", RIGHT], (1.0, 1.0)),
        ([OTHER, f"{WRONG}\n\n{RIGHT}", f"{WRONG}\n\n{RIGHT}"], (0.0, 0.0)),  # seconds count after firsts
        ([OTHER, f"{OTHER}\n\n{WRONG}", f"{OTHER}\n\n{RIGHT}", f"{OTHER}\n\n{RIGHT}"], (0.0, 1.0)),
        ([OTHER, f"{RIGHT}\n\n{WRONG}", f"{WRONG}\n\n{RIGHT}"], (1.0, 1.0)),  # and decide between equals
        ([RAGGED, RAGGED, RIGHT], (1.0, 1.0)),
        ([RAGGED], (0.0, 0.0)),
    ],
)
def test_the_most_frequent_answers_of_all_edits_are_the_tries(answers, solved):
    assert row(*(edit(index, answer) for index, answer in enumerate(answers)), rejected(99, "x")).solved == solved


def test_each_test_has_votes_of_its_own():
    assert row(edit(0, RIGHT, OTHER), edit(1, WRONG, RIGHT), edit(2, RIGHT, RIGHT)).solved == (1.0, 1.0)


def test_a_context_of_which_all_edits_were_rejected_is_not_solved():
    found = row(rejected(0, "broken JSON"), edit(0, RIGHT, context="b"))
    assert (found.solved, found.success, found.malformed, found.valid) == ((0.5, 0.5), 0.5, "0.000", "0.500")
    nothing = row(rejected(0, "broken JSON"))
    assert (nothing.solved, nothing.cells, nothing.malformed, nothing.valid) == ((0.0, 0.0), 0.0, "–", "0.000")


# -- which rows --------------------------------------------------------------------------------------------------------


def test_the_policy_without_an_adapter_has_one_answer_a_context():
    rollouts = [
        rejected(0, "broken JSON"),
        edit(1, RIGHT),
        edit(0, RIGHT, context="b", baseline_answers=(RIGHT,)),
        edit(1, OTHER, context="b", baseline_answers=(RIGHT,)),
    ]
    found = named({0: rollouts})[0]
    assert (found.name, found.success, found.solved, found.cells) == ("in-context", 0.5, (0.5, 0.5), 0.875)
    assert (found.contexts, found.pairs, found.malformed, found.valid) == (2, 2, "0.000", "–")


def test_one_validation_has_a_row_for_each_kind():
    passage, written = (edit(-1, answer, kind=kind) for answer, kind in ((OTHER, "passage"), (RIGHT, "written")))
    rows = named({2: [passage, written, edit(0, RIGHT)]})
    assert [(row.name, row.success, row.valid) for row in rows] == [
        ("in-context", 0.0, "–"),
        ("demonstrations alone", 0.0, "–"),
        ("self-edits", 1.0, "1.000"),
        ("fixed configuration", 1.0, "1.000"),
    ]


def test_a_fit_has_the_self_edits_of_every_validation_and_the_other_rows_of_the_first():
    later = replace(edit(0, RIGHT, kind="passage"), edit_index=-1)
    rows = named({2: [later, edit(0, RIGHT)], 0: [edit(0, OTHER)], 1: [later, edit(0, WRONG)]})
    assert [(row.name, row.cells) for row in rows] == [
        ("in-context", 0.75),
        ("self-edits before training", 0.75),
        ("self-edits after round 1", 0.0),
        ("self-edits after round 2", 1.0),
    ]


def test_nothing_is_said_of_contexts_without_tests():
    untested = replace(BASE, context_id="b", golds=(), questions=(), baseline_answers=())
    assert [(row.contexts, row.pairs) for row in named({0: [edit(0, RIGHT), untested]})] == [(1, 1), (1, 1)]
    for empty in ({}, {0: []}, {0: [untested]}):
        assert (named(empty), choices_table(empty).rows, arc_tables(empty)) == ([], (), ())


# -- choices and reasons -----------------------------------------------------------------------------------------------


def test_choices_of_valid_self_edits():
    size = {**CHOSE, "basic": False, "size": True, "loss": "all"}
    rollouts = [
        edit(0, RIGHT),
        edit(1, OTHER),
        edit(2, RIGHT, asked=size),
        edit(2, OTHER, asked=size, repeat=1),
        replace(rejected(3, "too many training steps"), asked=size),
        edit(-1, RIGHT, kind="written", asked=size),
    ]
    assert choices_table({0: rollouts}).rows == (
        ("basic", 2, "0.500", 1, "0.500"),
        ("size", 1, "0.500", 2, "0.500"),
        ("chained", 0, "–", 3, "0.500"),
        ("repeated", 0, "–", 3, "0.500"),
        ("loss on outputs", 2, "0.500", 1, "0.500"),
        ("loss on all", 1, "0.500", 2, "0.500"),
    )


def test_choices_of_the_first_and_the_last_validation():
    all_loss = edit(0, RIGHT, asked={**CHOSE, "loss": "all"})
    validations = {0: [edit(0, OTHER)], 1: [all_loss], 2: [edit(0, RIGHT), edit(0, RIGHT, context="b")]}
    rows = choices_table(validations).rows
    assert len(rows) == 12
    assert rows[:2] == (("basic before training", 1, "0.000", 0, "–"), ("basic after round 2", 2, "1.000", 0, "–"))
    assert rows[-1] == ("loss on all after round 2", 0, "–", 2, "1.000")


def test_tables():
    rollouts = [
        edit(-1, RAGGED, kind="passage"),
        edit(0, RIGHT),
        rejected(1, "broken JSON"),
        rejected(2, "missing field"),
        rejected(3, "missing field"),
        edit(0, RIGHT, context="b", baseline_answers=("",)),
        edit(1, RAGGED, context="b", asked={**CHOSE, "basic": False}),
        rejected(2, "missing field", context="b"),
        replace(rejected(2, "missing field", context="b"), repeat=1),
    ]
    rows, choices, rejections, malformed = arc_tables({0: rollouts})
    assert rows.rows == (
        ("in-context", 0.0, "n = 2", 0.0, 0.0, 0.375, "0.500", "–", 2, 2),
        ("demonstrations alone", 0.0, "n = 1", 0.0, 0.0, 0.0, "1.000", "–", 1, 1),
        # of a, one of four edits; of b, one of three, of which one has two repeats
        ("self-edits", pytest.approx(7 / 24), "n = 2", 1.0, 1.0, pytest.approx(7 / 24), "0.333", "0.375", 2, 7),
    )
    assert choices.header == ("augmentations", "edits with it", "success", "edits without it", "success without it")
    assert choices.rows == (
        ("basic", 2, "1.000", 1, "0.000"),
        ("size", 0, "–", 3, "0.667"),
        ("chained", 0, "–", 3, "0.667"),
        ("repeated", 0, "–", 3, "0.667"),
        ("loss on outputs", 3, "0.667", 0, "–"),
        ("loss on all", 0, "–", 3, "0.667"),
    )
    assert (rejections.header[0], rejections.rows) == ("rejected edits", (("missing field", 3), ("broken JSON", 1)))
    assert (malformed.header[0], malformed.rows) == ("malformed answers", (("ragged rows", 2), ("no grid", 1)))


def test_configurations_of_several_contexts_best_first():
    slow, fast = ({**CHOSE, "learning_rate": rate, "epochs": 2} for rate in (0.0001, 0.003))
    found = configurations_table(
        {
            0: [edit(0, OTHER, asked=slow)],  # an earlier validation is not looked at
            1: [
                edit(0, OTHER, asked=slow),
                edit(0, RIGHT, asked=slow, context="b"),
                edit(1, RIGHT, asked=fast),
                edit(1, RIGHT, asked=dict(reversed(fast.items())), context="b"),  # written in another order
                edit(2, RIGHT, asked={**fast, "epochs": 3}),  # tried on one context only
                rejected(3, "too many training steps"),
            ],
        }
    )
    assert [(success, contexts) for _, success, _, contexts in found.rows] == [(1.0, 2), (0.5, 2)]
    assert found.rows[0][0] == (
        '{"basic": true, "size": false, "chained": false, "repeated": false, "loss": "outputs", '
        '"learning_rate": 0.003, "epochs": 2}'
    )
    tables = arc_tables({1: [edit(0, RIGHT, asked=fast), edit(0, RIGHT, asked=fast, context="b")]})
    assert (found.rows[0][0], 1.0, "n = 2", 2) in [row for table in tables for row in table.rows]
