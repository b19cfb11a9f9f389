"""What rollouts have cost: each cost stands once, so that sums are totals whatever is put together."""

from dataclasses import replace

import pytest

from seal_lightning.results.edits import figures_of
from seal_lightning.results.usage import share_seconds, total_seconds, total_tokens, total_usage, usage_by_purpose
from seal_lightning.types import Rollout, Usage

BASE = Rollout(round=0, context_id="lamp", edit_index=0, repeat=0, seed=0, prompt="", text="", status="ok")
EDIT = [replace(BASE, repeat=repeat, tokens={"prompt": 20, "edit": 5, "trained": 100}) for repeat in range(3)]


def test_the_tokens_of_an_edit_count_once_and_what_repeats_train_each_time():
    assert total_tokens(EDIT) == {"prompt": 20, "edit": 5, "trained": 300}


def test_the_same_edit_of_another_round_or_kind_is_another_one():
    both = [*EDIT, *(replace(one, round=1) for one in EDIT), *(replace(one, kind="written") for one in EDIT[:1])]
    assert figures_of(both).tokens == total_tokens(both) == {"prompt": 60, "edit": 15, "trained": 700}


def test_usage_adds_up():
    spent = [replace(BASE, usage={"sampling": {"requests": 2, "dollars": 0.5}, "grading": {"cached": 1}}), BASE,
             replace(BASE, usage={"grading": {"requests": 1}})]  # fmt: skip
    assert usage_by_purpose(spent) == {"sampling": Usage(2, dollars=0.5), "grading": Usage(1, 1)}
    assert total_usage(spent) == Usage(3, 1, dollars=0.5)
    assert total_usage([]) == Usage()


def test_seconds_are_shared_by_what_was_spent_and_add_up():
    tokens = [{"trained": 2640, "answers": 10}, {"trained": 12816, "answers": 30}, {}]
    unit = [replace(BASE, tokens=one) for one in tokens]
    shared = share_seconds(unit, {"inner loop": 6.0, "answering": 2.0, "x": 3.0})
    assert [one.seconds["inner loop"] for one in shared] == pytest.approx([1.0248447, 4.9751553, 0.0])
    assert [one.seconds["answering"] for one in shared] == [0.5, 1.5, 0.0]
    assert [one.seconds["x"] for one in shared] == pytest.approx([1.0, 1.0, 1.0])  # of which nothing is counted
    assert total_seconds(shared) == pytest.approx({"inner loop": 6.0, "answering": 2.0, "x": 3.0})
    assert share_seconds([], {"x": 1.0}) == []


def test_seconds_that_were_shared_before_stay():
    (shared,) = share_seconds([replace(BASE, seconds={"questions": 1.0})], {"baseline": 2.0})
    assert shared.seconds == {"questions": 1.0, "baseline": 2.0}
