"""Grouping and the ReST-EM filter, also against the filter output that the SEAL authors published."""

import gzip
import json
from dataclasses import replace

from seal_lightning.m_step.selection import (
    ABOVE,
    best_and_worst,
    best_of,
    group_rollouts,
    without_merit,
    without_repeats,
)
from seal_lightning.types import Rollout

BASE = Rollout(round=0, context_id="a", edit_index=0, repeat=0, seed=0, prompt="p", text="t", status="ok", reward=0.0)


def rollouts(rewards_by_edit):
    return [
        replace(BASE, edit_index=index, repeat=repeat, reward=reward, gain=(reward or 0.0) - 0.5)
        for index, rewards in enumerate(rewards_by_edit)
        for repeat, reward in enumerate(rewards)
    ]


def kept(rewards_by_edit, **options):
    (group,) = group_rollouts(rollouts(rewards_by_edit))
    return [outcome.edit_index for outcome in best_of(group, **options)]


def test_repeats_are_averaged():
    assert kept([[1.0, 0.0], [0.6, 0.6]]) == [1]


def test_ties_go_to_the_first_edit():
    assert kept([[0.2], [0.7], [0.7]]) == [1]


def test_rounding_errors_still_tie():
    assert kept([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]) == [0]


def test_rejected_edits_are_never_kept():
    assert kept([[None], [0.0]], k=5) == [1]
    assert kept([[None]]) == []


def test_an_edit_that_diverged_once_is_never_kept():
    once = [replace(one, status="diverged", reward=None) if one.repeat == 1 else one for one in rollouts([[0.9, 0.9]])]
    (group,) = group_rollouts([*once, *(replace(one, edit_index=1) for one in rollouts([[0.1, 0.1]]))])
    assert [outcome.reward for outcome in group.outcomes] == [None, 0.1]
    assert [outcome.edit_index for outcome in best_of(group, k=2)] == [1]


def test_minima():
    assert kept([[0.4], [0.9], [0.7]], k=3, min_reward=0.5) == [1, 2]
    assert kept([[0.4], [0.9], [0.7]], k=3, min_gain=0.3) == [1]


def test_an_edit_of_reward_0_is_kept_only_by_the_authors_rule():
    assert kept([[0.0], [0.1, -0.1]]) == [0]
    assert kept([[0.0], [0.1, -0.1]], above=ABOVE) == []
    assert kept([[0.0], [0.1, 0.0]], k=2, above=ABOVE) == [1]


def test_what_is_kept_without_merit():
    rows = [
        replace(BASE, edit_index=index, reward=reward, score=score, baseline=baseline)
        for index, (reward, score, baseline) in enumerate(
            [(0.5, 0.5, 0.25), (0.5, 0.5, 0.5), (0.0, 0.5, 0.25), (-0.1, 0.9, 0.25), (0.5, 0.25, 0.5), (0.5, 0.5, 0.0)]
        )
    ]
    (group,) = group_rollouts(rows)
    assert [outcome.edit_index for outcome in without_merit(group.outcomes)] == [1, 2, 3, 4]


def test_passage_rollouts_are_left_out():
    assert group_rollouts([replace(BASE, kind="passage")]) == []


def test_the_authors_filter_is_reproduced(shared):
    published = shared / "data" / "seal-published"
    articles = json.loads(gzip.decompress((published / "rank_iter0.json.gz").read_bytes()))["articles"]
    golden = [json.loads(line) for line in (published / "sft_best1of5_iter0.jsonl").read_text().splitlines()]
    found = []
    for article in articles:
        rows = [
            replace(
                BASE,
                context_id=article["context"],
                edit_index=i,
                text=edit["text"],
                reward=edit["stats"]["adapter_mean"],
            )
            for i, edit in enumerate(article["completions"])
        ]
        (group,) = group_rollouts(rows)
        found += [outcome.text for outcome in best_of(group)]
    assert [row["completion"].strip() for row in golden] == [text.strip() for text in found]


def test_what_is_too_much_like_a_better_edit_is_passed_over():
    texts = [
        "Ada ruled.\nShe wrote.",
        "She wrote.\nAda ruled.",
        "Ada ruled.\nShe wrote!",
        "Bob built it.",
        "Eve sold it.",
    ]
    rows = [replace(BASE, edit_index=index, text=text, reward=1 - index / 10) for index, text in enumerate(texts)]
    (group,) = group_rollouts(rows)
    ranked = best_of(group, k=5)

    def chosen(k, most):
        found, passed = without_repeats(ranked, k=k, most=most)
        return [outcome.edit_index for outcome in found], passed

    assert chosen(2, 0.9) == ([0, 3], 2)
    assert chosen(2, 0.97) == ([0, 2], 1)
    assert chosen(1, 0.9) == ([0], 0), "what comes after is not looked at"
    assert chosen(9, 0.0) == ([0], 4)


def test_the_kind_of_an_edit_is_that_of_its_rollouts():
    (group,) = group_rollouts([replace(BASE, edit_kind="facts"), replace(BASE, edit_kind="facts", repeat=1)])
    assert [outcome.edit_kind for outcome in group.outcomes] == ["facts"]


def test_a_pair_answers_one_prompt():
    """Of two kinds of self-edit, the worst of all may be of the other one."""
    rows = [(1.0, "facts"), (0.5, "facts"), (0.0, "self-qa")]
    made = [
        replace(BASE, edit_index=n, reward=reward, prompt=kind, edit_kind=kind) for n, (reward, kind) in enumerate(rows)
    ]
    (group,) = group_rollouts(made)
    best, worst = best_and_worst(group.outcomes, group.outcomes[:1])
    assert (best.edit_index, worst.edit_index) == (0, 1)
    assert best_and_worst(group.outcomes, group.outcomes[2:]) is None
