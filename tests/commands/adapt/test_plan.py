"""Units and groups are planned once; what was begun goes on, and only what is missing is planned after a change."""

import pytest

from seal_lightning.commands.adapt.plan import (
    FILE,
    PlannedUnit,
    WorkPlan,
    plan_groups,
    plan_units,
    read_plan,
    save_plan,
)
from seal_lightning.errors import JournalError

A, B, C, D = (("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"))
FIRST = WorkPlan((PlannedUnit((A, B)), PlannedUnit((C,))))


def test_a_resume_goes_on_with_the_units_that_were_begun():
    assert plan_units(WorkPlan(), [A, B, C], [], per_unit=2) == FIRST
    for written in ([], [0], [1], [0, 1]):
        assert plan_units(FIRST, [A, B, C], written, per_unit=1) == FIRST
        assert FIRST.pending(written) == sorted({0, 1} - {*written})


def test_only_passages_without_edits_are_planned_after_a_change():
    plan = plan_units(FIRST, [A, C, D], [0, 1], per_unit=2)
    assert plan.units == (*FIRST.units, PlannedUnit((D,)))
    assert plan.unit_of([0, 1]) == {A: 0, B: 0, C: 1}


def test_what_was_begun_is_given_up_when_the_documents_change_again():
    plan = plan_units(FIRST, [A, B, D], [0], per_unit=2)
    assert plan.units == (FIRST.units[0], PlannedUnit(()), PlannedUnit((D,)))
    assert plan.pending([0]) == [2]


def test_the_same_passage_under_another_id_takes_over_its_edits():
    other = ("a-new", "1")
    plan = plan_units(FIRST, [other, B, D], [0, 1], per_unit=2)
    assert plan.units[2:] == (PlannedUnit((other,), copies=0), PlannedUnit((D,)))
    assert plan_units(plan, [other, B, D], [0, 1, 2], per_unit=2) == plan  # broken off after the copy


def test_two_passages_that_are_alike_from_the_start_are_both_written_about():
    twin = ("twin", "1")
    plan = plan_units(WorkPlan(), [A, twin], [], per_unit=1)
    assert [unit.copies for unit in plan.units] == [None, None]
    assert plan_units(plan, [A, twin], [0], per_unit=1) == plan


def test_groups_stay_together_as_long_as_all_their_adapters_are_wanted():
    plan = plan_groups(WorkPlan(), [(2, [A, B, C]), (1, [D])], ())
    assert plan.groups == ((A, B), (C,), (D,))
    assert plan_groups(plan, [(2, [A, B, C]), (1, [D])], ("a", "c")) == plan
    changed = ("b", "5")
    assert plan_groups(plan, [(2, [A, changed, C]), (1, [D])], ("a", "c")).groups == ((C,), (D,), (changed,))


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = WorkPlan((*FIRST.units, PlannedUnit((D,), 1), PlannedUnit(())), ((A, B),))
    assert read_plan(tmp_path) == WorkPlan()
    save_plan(tmp_path, plan, known=plan)
    assert not (tmp_path / FILE).exists()
    save_plan(tmp_path, plan, known=WorkPlan())
    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize("content", ["{", "[]", '{"units": [{}], "groups": []}', '{"units": [], "groups": [["x"]]}'])
def test_a_damaged_plan_is_one_line(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(JournalError, match=r"plan\.json.*: expected") as error:
        read_plan(tmp_path)
    assert "\n" not in str(error.value)
