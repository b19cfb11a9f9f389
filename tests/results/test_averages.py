"""One definition for a figure: whoever averages, spreads or bounds it, the same rollouts give the same number."""

from dataclasses import replace

import pytest

from seal_lightning.callbacks.progress import _scores
from seal_lightning.fit.metrics import e_step_metrics
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.results.accuracy import accuracy_table, paired_difference
from seal_lightning.results.edits import figures_of, rewards_of
from seal_lightning.results.retention import ContextStream, average
from seal_lightning.types import Rollout

BASE = Rollout(round=0, context_id="", edit_index=0, repeat=0, seed=0, prompt="", text="", status="ok", reward=0.0)


def edit(context: str, index: int, score: float, *, repeat: int = 0, **fields) -> Rollout:
    terms = {"score": score, "length": 1 - score}
    return replace(
        BASE, context_id=context, edit_index=index, repeat=repeat, score=score, reward=score, terms=terms, **fields
    )


# Three contexts of eight edits that are all right, and seven of a single edit that is all wrong: 3 of 10.
UNEVEN = [edit(f"many {context}", index, 1.0) for context in range(3) for index in range(8)]
UNEVEN += [edit(f"one {context}", 0, 0.0) for context in range(7)]


def test_contexts_count_alike_however_many_edits_they_have():
    figures = figures_of(UNEVEN)
    metrics = e_step_metrics(UNEVEN, group_rollouts(UNEVEN), [], 1.0)
    assert figures.score[0] == pytest.approx(0.3)
    assert figures.reward == rewards_of(group_rollouts(UNEVEN)).mean == pytest.approx(0.3)
    assert figures.terms["score"][0] == metrics["reward_terms/score"] == metrics["reward/mean"] == pytest.approx(0.3)
    assert accuracy_table(UNEVEN)[-1].accuracy == pytest.approx(0.3)
    assert "edits 0.300" in _scores(UNEVEN)  # the status line of a validation


def test_repeats_of_an_edit_are_averaged_before_edits_are():
    raced = [edit("lamp", 0, 1.0, repeat=repeat) for repeat in range(3)] + [edit("lamp", 1, 0.0)]
    assert figures_of(raced).score[0] == accuracy_table(raced)[-1].accuracy == 0.5


def test_a_term_has_one_spread():
    spread = figures_of(UNEVEN).terms["score"][1]
    metrics = e_step_metrics(UNEVEN, group_rollouts(UNEVEN), [], 1.0)
    assert metrics["reward_terms/score_std"] == spread == pytest.approx(0.4830459)  # of three ones and seven zeros


def test_fewer_than_six_values_have_no_interval():
    few = [edit(f"c{number}", 0, number / 4) for number in range(5)]
    row = accuracy_table(few)[-1]
    assert (row.low, row.high, row.contexts) == (None, None, 5)
    enough = accuracy_table([*few, edit("c5", 0, 0.5)])[-1]
    assert enough.low is not None and enough.low < enough.accuracy < enough.high
    difference = paired_difference({"a": 1.0, "b": 0.5, "c": 0.2}, {"a": 0.0, "b": 0.0, "c": 0.0})
    assert (difference.low, difference.high, difference.contexts) == (None, None, 3)


def test_three_streams_give_no_interval_of_a_cell():
    streams = [ContextStream(f"order {number}", ("a",), ((0.1 * number,), (0.5,))) for number in range(3)]
    assert average("seal", streams).intervals == ()
