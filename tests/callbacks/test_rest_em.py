"""ReST-EM's filter as a run uses it; the choice within one context is in test_selection."""

import pytest

from seal_lightning.callbacks import ReSTEMFilter
from seal_lightning.errors import ConfigError
from seal_lightning.types import EditOutcome, RolloutGroup


def group(name: str, *rewards: float | None, baseline: float = 0.0) -> RolloutGroup:
    return RolloutGroup(
        name,
        tuple(
            EditOutcome(
                name, index, "prompt", "text", reward=reward, score=reward or 0.0, gain=(reward or 0.0) - baseline,
                repeats=1,
            )
            for index, reward in enumerate(rewards)
        ),
    )  # fmt: skip


GROUPS = [group("lamp", 0.2, 0.9, 0.9), group("tarn", None, 0.1, baseline=0.3), group("kelp", None, None)]


def chosen(groups, **options) -> list[tuple[str, int]]:
    return [(outcome.context_id, outcome.edit_index) for outcome in ReSTEMFilter(**options).select(groups)]


def test_the_best_edit_of_each_context_in_their_order():
    assert chosen(GROUPS) == [("lamp", 1), ("tarn", 1)]
    assert chosen(GROUPS[::-1]) == [("tarn", 1), ("lamp", 1)]
    assert chosen([]) == []


def test_k_keeps_more_and_every_one_when_large():
    assert chosen(GROUPS, k=2) == [("lamp", 1), ("lamp", 2), ("tarn", 1)]
    assert chosen(GROUPS, k=1000) == [("lamp", 1), ("lamp", 2), ("lamp", 0), ("tarn", 1)]


def test_an_edit_without_a_reward_is_not_worth_imitating():
    groups = [group("lamp", 0.0, 0.0), group("tarn", -0.5, 0.25), group("kelp", 1e-17)]
    assert chosen(groups, k=9) == [("tarn", 1)]
    assert chosen(groups, k=9, above=0.25) == []
    assert chosen(groups, above=None) == [("lamp", 0), ("tarn", 1), ("kelp", 0)]  # the authors' rule
    assert chosen([group("lamp", -0.5, -0.25)], above=-0.5) == [("lamp", 1)]


def test_limits_that_leave_each_other_nothing_to_say_are_refused():
    with pytest.raises(ConfigError, match=r"^filter\.min_reward must be more than filter\.above, which is 0, got -1:"):
        ReSTEMFilter(min_reward=-1.0)
    assert ReSTEMFilter(min_reward=-1.0, above=None).min_reward == -1.0
    with pytest.raises(ConfigError, match=r"^filter\.above must be a number, got nan"):
        ReSTEMFilter(above=float("nan"))


def test_minima_leave_contexts_out():
    assert chosen(GROUPS, k=9, min_reward=0.2) == [("lamp", 1), ("lamp", 2), ("lamp", 0)]
    assert chosen(GROUPS, min_gain=0.0) == [("lamp", 1)]
    assert chosen(GROUPS, min_gain=-0.5) == [("lamp", 1), ("tarn", 1)]
    assert chosen(GROUPS, min_reward=0.95) == []


def test_what_is_kept_is_the_outcome_itself():
    assert ReSTEMFilter().select(GROUPS)[0] is GROUPS[0].outcomes[1]


def test_k_is_checked():
    with pytest.raises(ConfigError, match=r"filter\.k must be at least 1, got 0"):
        ReSTEMFilter(k=0)


def test_repeats_are_passed_over_and_counted():
    groups = [group("a", 1.0, 1.0, 0.5), group("b", 0.5, 0.25)]  # all edits are the same text
    chosen = ReSTEMFilter(k=2, max_similarity=0.9)
    assert [(one.context_id, one.edit_index) for one in chosen.select(groups)] == [("a", 0), ("b", 0)]
    assert chosen.remark() == "3 edits passed over, too much like a better one"
    assert len(ReSTEMFilter(k=2).select(groups)) == 4 and ReSTEMFilter(k=2).remark() == ""
    chosen.select([])
    assert chosen.remark() == ""


@pytest.mark.parametrize("most", [1.0, -0.1, float("nan")])
def test_a_similarity_that_cannot_be(most):
    with pytest.raises(ConfigError, match=r"filter\.max_similarity must be at least 0 and below 1, got"):
        ReSTEMFilter(max_similarity=most)
