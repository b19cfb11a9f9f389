"""Figures of an E-step by hand, and the tables that show them."""

from dataclasses import replace

import pytest

from seal_lightning.results.edits import figures_of, render_figures
from seal_lightning.types import Rollout, Usage

BASE = Rollout(
    round=0, context_id="lamp", edit_index=0, repeat=0, seed=0, prompt="p", text="t", status="ok", questions=("a", "b")
)


def rollout(context, edit, repeat, baseline, score, **fields):
    scored = {"baseline": baseline, "score": score, "gain": score - baseline, "reward": score}
    return replace(BASE, context_id=context, edit_index=edit, repeat=repeat, **{**scored, **fields})


ROLLOUTS = [
    rollout("lamp", 0, 0, 0.5, 1.0, tokens={"edit": 7, "trained": 100}, terms={"score": 1.0}),
    rollout("lamp", 0, 1, 0.5, 1.0, tokens={"edit": 7, "trained": 100}, terms={"score": 1.0}),
    rollout("lamp", 1, 0, 0.5, 0.0, terms={"score": 0.0}),
    rollout("lamp", 1, 1, 0.5, 1.0, usage={"grading": {"requests": 2, "dollars": 0.25}}),
    rollout("tarn", 0, 0, 0.0, 0.5, usage={"grading": {"requests": 1}, "sampling": {"dollars": 0.5}}),
    rollout("tarn", 0, 1, 0.0, 0.5),
    rollout("tarn", 1, 0, 0.0, 0.0, status="rejected", reason="empty", reward=None, questions=()),
]


def test_figures_by_hand():
    row = figures_of(ROLLOUTS)
    assert (row.contexts, row.edits, row.repeats, row.queries) == (2, 4, 2, 4)
    assert row.rejected == 0.25
    assert row.baseline == (0.25, pytest.approx(0.3535534))  # of .5 and 0
    assert row.score == (0.5, pytest.approx(0.3535534))  # of .75 and .25
    assert row.gain == 0.25
    assert row.over_edits == pytest.approx(0.3535534)  # of (1, .5) and of (.5, 0)
    assert row.within_edits == pytest.approx(0.7071068 / 4)  # one edit of four has 0 and 1
    assert row.improved == 0.5  # an edit that ends where the baseline is has won nothing
    assert row.solved == 0.25
    assert row.best == 0.75
    assert row.reward == 0.625  # of .75 and .5
    assert row.terms == {"score": (0.5, 0.0)}  # of one context, its edits 1 and 0
    assert row.tokens == {"edit": 7, "trained": 200}
    assert row.usage == {"grading": Usage(3, dollars=0.25), "sampling": Usage(dollars=0.5)}
    assert (row.total.requests, row.total.dollars, row.kept) == (3, 0.75, None)


def test_one_of_everything_has_no_spread():
    row = figures_of([rollout("lamp", 0, 0, 0.0, 1.0)])
    assert (row.score, row.over_edits, row.within_edits, row.total.dollars) == ((1.0, 0.0), 0.0, 0.0, None)


def test_tables_leave_out_what_there_is_not():
    plain = figures_of([rollout("lamp", 0, 0, 0.0, 1.0)])
    assert render_figures({"run": plain}) == (
        "|     | contexts | edits | repeats | queries | rejected |\n"
        "| --- | -------- | ----- | ------- | ------- | -------- |\n"
        "| run | 1        | 1     | 1       | 2       | 0.0%     |\n"
        "\n"
        "|     | baseline        | score           | gain    | over edits | within edits "
        "| improved | solved | best edit | reward |\n"
        "| --- | --------------- | --------------- | ------- | ---------- | ------------ "
        "| -------- | ------ | --------- | ------ |\n"
        "| run | 0.0000 ± 0.0000 | 1.0000 ± 0.0000 | +1.0000 | 0.0000     | 0.0000       "
        "| 100.0%   | 100.0% | 1.0000    | 1.0000 |"
    )
    both = render_figures({"run": plain, "all": replace(figures_of(ROLLOUTS), kept=3)})
    assert "| kept | tokens trained | requests | dollars |" in both
    assert "| 3    | 200            | 3        | 0.7500  |" in both
    assert "| all | 0.5000 ± 0.0000 |" in both
