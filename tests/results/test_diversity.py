"""How different edits are, and the shares of a round that trackers plot; literal figures."""

import pytest

from seal_lightning.fit.metrics import edit_metrics
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.results.edits import diversity, diversity_of
from seal_lightning.types import Rollout


def rollout(context: str, index: int, text: str, *, score: float = 0.5, repeat: int = 0, ok: bool = True) -> Rollout:
    return Rollout(
        round=0, context_id=context, edit_index=index, repeat=repeat, seed=0, prompt="", text=text,
        status="ok" if ok else "rejected", questions=("q",), baseline=0.5, score=score, gain=score - 0.5,
        reward=score if ok else None, tokens={"edit": len(text) * 2},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], None),
        (["one"], None),
        (["same", "same"], 0.0),
        (["abc", "xyz"], 1.0),
        (["abcd", "abcx"], 0.25),  # one character out, one in, of eight
        (["abc", "abc", "xyz"], 2 / 3),
        (["東京", "東北"], 0.5),
    ],
)
def test_diversity(texts, expected):
    assert diversity(texts) == (None if expected is None else pytest.approx(expected))


def test_contexts_count_alike_and_unusable_edits_not():
    rollouts = [rollout("a", 0, "abc"), rollout("a", 1, "abc"), rollout("a", 2, "zzz", ok=False)]
    rollouts += [rollout("b", 0, "abc"), rollout("b", 1, "xyz"), rollout("c", 0, "abc")]
    assert diversity_of(group_rollouts(rollouts)) == 0.5
    assert diversity_of([]) is None


def test_shares_and_lengths_of_a_round():
    rollouts = [rollout("a", 0, "abcd", score=1.0), rollout("a", 0, "abcd", score=0.0, repeat=1)]  # no gain on average
    rollouts += [rollout("a", 1, "ab", score=0.75), rollout("b", 0, "", ok=False), rollout("b", 1, "xy", score=0.25)]
    groups = group_rollouts(rollouts)
    kept = [groups[0].outcomes[1]]
    metrics = edit_metrics(rollouts, groups, kept)
    assert metrics == {
        "e_step/kept_frac": 0.25,
        "e_step/success_frac": 0.25,
        "edits/diversity": pytest.approx(1 / 3),  # of abcd and ab
        "edits/characters": 2.0,
        "edits/tokens": 4.0,
    }


def test_a_round_without_queries_has_no_successes():
    groups = group_rollouts([])
    assert edit_metrics([], groups, []) == {}
