"""Exact ties: equal means of rewards, whatever floating point makes of them, and nothing else."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.entries import Entry
from seal_lightning.records.golden import compare, exact, exact_rewards
from seal_lightning.types import Rollout

ROLLOUT = Rollout(
    round=0, context_id="lamp", edit_index=0, repeat=0, seed=0, prompt="Read Lamp.", text="0", status="ok"
)


def rollouts(*edits, context="lamp"):
    """An edit for each row of rewards, a repeat for each reward; its text is its index."""
    base = replace(ROLLOUT, context_id=context, prompt=f"Read {context}.")
    return tuple(
        replace(base, edit_index=index, text=str(index), repeat=repeat, reward=reward)
        for index, rewards in enumerate(edits)
        for repeat, reward in enumerate(rewards)
    )


@pytest.fixture
def compared(tmp_path):
    """What was kept by reward, beside such an edit of each context."""

    def run(found, *theirs, k=1):
        entry = Entry("here", "train-000", found, ())
        groups = group_rollouts(found)
        kept = {"train-000": [edit for group in groups for edit in best_of(group, k=k)]}
        rows = [{"prompt": f"Read {context}.", "completion": text} for context, text in theirs]
        path = tmp_path / "golden.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return compare(str(path), [entry], kept)

    return run


@pytest.mark.parametrize(
    ("reward", "fraction"),
    [
        (2 / 3, Fraction(2, 3)),
        (0.6667, Fraction(6667, 10000)),
        (1 / 3 + 1 / 3 + 1 / 3, Fraction(1)),
        (977 / 974, Fraction(977, 974)),
        (0.1 + 0.2, Fraction(0.1 + 0.2)),  # not 3/10, whose float is another
        (-0.25, Fraction(-1, 4)),
    ],
)
def test_the_fraction_of_a_reward(reward, fraction):
    assert exact(reward) == fraction


def test_rewards_that_only_floating_point_tells_apart_tie(compared):
    """0.6 + 0.6 + 0.0 is 1.2, and so is 0.4 + 0.6 + 0.2, but not of their floats."""
    found = compared(rollouts((0.2, 0.2, 0.2), (0.6, 0.6, 0.0), (0.4, 0.6, 0.2)), ("lamp", "2"))
    assert (found.same, found.more, found.misses) == (0, 0, ())
    (tie,) = found.ties
    assert (tie.context, tie.theirs, tie.ours, tie.tied) == ("lamp", 2, 1, (1, 2))


def test_rewards_that_rounding_tells_apart_do_not_tie(compared):
    """0.6667 + 0.6667 + 0.6667 is more than 0.6667 + 0.3333 + 1, by 0.0001: the authors' file keeps the lesser one."""
    found = compared(rollouts((0.6667, 0.6667, 0.6667), (0.6667, 0.3333, 1.0)), ("lamp", "1"))
    assert (found.same, found.more, found.ties) == (0, 1, ())
    (miss,) = found.misses
    assert (miss.theirs, miss.ours, miss.tied) == (1, 0, ())
    assert compared(rollouts((2 / 3, 2 / 3, 2 / 3), (2 / 3, 1 / 3, 1.0)), ("lamp", "1")).ties  # the verdicts do tie


def test_an_edit_that_was_kept_is_no_tie_however_many_equal_it(compared):
    found = compared(rollouts((0.5, 0.5), (1.0, 0.0), (0.5, 0.5)), ("lamp", "0"))
    assert (found.same, found.ties, found.misses, found.more) == (1, (), (), 0)


def test_each_kept_edit_stands_for_one_row(compared):
    """Of three equal edits two are kept; they keep the third, and one more text that nobody wrote."""
    found = compared(rollouts((0.5,), (0.5,), (0.5,)), ("lamp", "0"), ("lamp", "2"), ("lamp", "?"), k=2)
    assert (found.same, found.more) == (1, 0)
    assert [(one.theirs, one.ours) for one in found.ties] == [(2, 1)]
    assert [(one.theirs, one.ours) for one in found.misses] == [(None, None)]


def test_a_row_that_stands_there_twice_does_not_tie_with_another_kept_edit(compared):
    found = compared(rollouts((0.5,), (0.5,)), ("lamp", "0"), ("lamp", "0"), k=2)
    assert (found.same, found.more, found.ties, len(found.misses)) == (1, 1, (), 1)


def test_contexts_do_not_tie_with_each_other(compared):
    both = rollouts((0.5,), (0.25,)) + rollouts((0.25,), (0.5,), context="tarn")
    found = compared(both, ("lamp", "1"), ("tarn", "1"))
    assert (found.same, found.ties, [one.context for one in found.misses]) == (1, (), ["lamp"])


def test_an_edit_without_a_reward_ties_with_nothing():
    found = rollouts((0.5, 0.5), (None, None), (0.5, 0.5))
    diverged = (*found[:-1], replace(found[-1], status="diverged"))
    assert exact_rewards(Entry("here", "train-000", diverged, ())) == {"lamp": {0: Fraction(1, 2)}}
