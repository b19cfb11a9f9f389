"""How different edits are, and the shares of a round that trackers plot; literal figures."""

from dataclasses import replace

import pytest

from seal_lightning.fit.metrics import edit_metrics
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.results.diversity import (
    compression_ratio,
    distinct_ngrams,
    diversity,
    diversity_by_context,
    mean_diversity,
    self_similarity,
    with_similarities,
)
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
        (["same", "same"], 1.0),
        (["abc", "xyz"], 0.0),
        (["abcd", "abcx"], 0.75),  # one character out, one in, of eight
        (["abc", "abc", "xyz"], 1 / 3),
        (["東京", "東北"], 0.5),
        (["Ada ruled.\n\nShe wrote.", "She wrote.\n Ada ruled."], 1.0),  # in another order
    ],
)
def test_self_similarity(texts, expected):
    assert self_similarity(texts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["one two", "three four"], 1.0),  # 4 of 4 words, 2 of 2 pairs
        (["one two", "One, two!"], 0.5),
        (["one", "one one"], (1 / 3 + 1.0) / 2),
        (["東京駅", "東京駅"], 0.5),  # characters are words where there are no blanks
        (["...", "!"], 1.0),
    ],
)
def test_distinct_ngrams(texts, expected):
    assert distinct_ngrams(texts) == pytest.approx(expected)


def test_compression_ratio():
    assert compression_ratio(["Ada ruled for ten years."] * 64) == pytest.approx(1535 / 46, rel=0.15)
    digits = [f"{number * 7919 % 100003:05d}" for number in range(64)]
    assert 1.0 < compression_ratio(digits) < 2.0
    assert compression_ratio(["\ud800", "b"]) < 1, "a lone surrogate is a text as any"


def test_the_figures_of_texts():
    assert diversity([]) is diversity(["one"]) is diversity(["one", " \n"]) is None
    found = diversity(["one two", "One, two!", ""])
    assert (found.distinct, found.similarity) == (0.5, pytest.approx(0.75))
    assert found.shown == "compression ratio 0.77, distinct n-grams 50%, similarity 0.75"


def test_many_texts_are_compared_with_as_many_as_few(monkeypatch):
    texts = ["abc", "xyz"] * 40
    assert self_similarity(texts) == pytest.approx(self_similarity(texts[:64]), abs=0.01)


def test_contexts_count_alike_and_unusable_edits_not():
    rollouts = [rollout("a", 0, "abc"), rollout("a", 1, "abc"), rollout("a", 2, "zzz", ok=False)]
    rollouts += [rollout("b", 0, "abc"), rollout("b", 1, "xyz"), rollout("c", 0, "abc")]
    rollouts += [rollout("b", 1, "xyz", repeat=1)]
    each = diversity_by_context(rollouts)
    assert {name: one.similarity for name, one in each.items()} == {"a": 1.0, "b": 0.0}
    assert mean_diversity(each.values()).similarity == 0.5
    assert mean_diversity([]) is None


def test_each_edit_is_compared_with_the_others_of_its_context_and_round():
    rollouts = [rollout("a", 0, "abc"), rollout("a", 1, "abc"), rollout("a", 1, "abc", repeat=1)]
    rollouts += [rollout("a", 2, "xyz"), rollout("a", 3, "abc", ok=False), rollout("b", 0, "abc")]
    rollouts += [replace(rollout("a", 0, "xyz"), round=1), replace(rollout("a", -1, ""), kind="passage")]
    alike = [one.similarity for one in with_similarities(rollouts)]
    assert alike == [0.5, 0.5, 0.5, 0.0, None, 0.0, 0.0, None]


def test_shares_and_lengths_of_a_round():
    rollouts = [rollout("a", 0, "abcd", score=1.0), rollout("a", 0, "abcd", score=0.0, repeat=1)]  # no gain on average
    rollouts += [rollout("a", 1, "ab", score=0.75), rollout("b", 0, "", ok=False), rollout("b", 1, "xy", score=0.25)]
    groups = group_rollouts(rollouts)
    kept = [groups[0].outcomes[1]]
    metrics = edit_metrics(rollouts, groups, kept)
    assert metrics == {
        "e_step/kept_frac": 0.25,
        "e_step/success_frac": 0.25,
        "diversity/compression": pytest.approx(7 / 15, rel=0.2),  # of abcd and ab
        "diversity/distinct": 1.0,
        "diversity/similarity": pytest.approx(2 / 3),
        "edits/characters": 2.0,
        "edits/tokens": 4.0,
    }


def test_a_round_without_queries_has_no_successes():
    groups = group_rollouts([])
    assert edit_metrics([], groups, []) == {}
