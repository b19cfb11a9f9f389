"""The paper's table and its bootstrap."""

from dataclasses import replace

from seal_lightning.results.accuracy import accuracy_table, evaluation_means, rounds_table, to_table
from seal_lightning.results.averages import interval
from seal_lightning.results.table import to_markdown
from seal_lightning.types import Rollout

EDIT = Rollout(
    round=0,
    context_id="a",
    edit_index=0,
    repeat=0,
    seed=0,
    prompt="",
    text="",
    status="ok",
    questions=("q1", "q2"),
    baseline=0.5,
    score=1.0,
    tokens={"trained": 10},
    seconds={"baseline": 1.0, "inner loop": 2.0},
)
ROLLOUTS = [
    EDIT,
    replace(EDIT, kind="passage", score=0.5),
    replace(EDIT, context_id="b", baseline=0.0, score=0.0),
    replace(EDIT, context_id="b", baseline=0.0, score=1.0, edit_index=1),
    replace(EDIT, context_id="b", baseline=0.0, score=0.5, kind="passage"),
]


def test_edits_are_averaged_within_contexts_first():
    assert evaluation_means(ROLLOUTS) == {"base": 0.25, "passage": 0.5, "edits": 0.75}


def test_rows_count_contexts_queries_tokens_and_seconds():
    base, passage, edits = accuracy_table(ROLLOUTS)
    assert (base.contexts, base.queries, base.tokens, base.seconds) == (2, 4, 0, 5.0)
    assert (passage.tokens, edits.tokens, edits.seconds) == (20, 30, 6.0)
    assert to_markdown(to_table([base])).splitlines()[2] == (
        "| base | 0.250    | n = 2         | 2        | 4       | 0              | 5       |"
    )


def test_a_run_s_table_has_the_edits_of_every_round():
    written = replace(EDIT, kind="written", score=0.9)
    after = [replace(rollout, score=1.0) for rollout in ROLLOUTS]
    rows = rounds_table({1: after, 0: [*ROLLOUTS, written]})
    assert [(row.name, row.accuracy) for row in rows] == [
        ("base", 0.25),
        ("passage", 0.5),
        ("edits before training", 0.75),
        ("edits after round 1", 1.0),
        ("written", 0.9),
    ]


def test_a_run_without_usable_rows_has_a_table_all_the_same():
    rows = rounds_table({0: [replace(EDIT, kind="passage")]})
    assert [row.name for row in rows] == ["passage"]


def test_the_interval_is_reproducible_and_holds_the_mean():
    values = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    low, high = interval(values)
    assert (low, high) == interval(values)
    assert 0.15 < low < 0.35 and 0.65 < high < 0.85


def test_equal_values_leave_no_width():
    assert interval([0.3] * 6) == (0.3, 0.3)
