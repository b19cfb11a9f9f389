"""ReST-EM's filter and its control as pure functions: groups of rollouts -> the edits to imitate (section 3.1).

What other objectives of the M-step compare is here too: pairs, advantages, and rewards dealt out anew for the control.

Repeats of one self-edit are averaged first; an edit that diverged in one of them is as unusable as one that always
does. Ties go to the edit that was sampled first, so the choice never depends on
the order in which work was finished.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Literal

from seal_lightning.results.diversity import similarity
from seal_lightning.seeding import derive_seed
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

Scale = Literal["group", "batch", "none"]
STD_AT_LEAST = 1e-4  # added to standard deviations of rewards, as in TRL
ABOVE = 0.0  # of the default filter: an edit of reward 0 is not worth imitating


def group_rollouts(rollouts: Iterable[Rollout]) -> list[RolloutGroup]:
    """Average the repeats of each edit and collect the edits of each context, in the order of the rollouts."""
    by_context: dict[str, dict[int, list[Rollout]]] = {}
    for rollout in rollouts:
        if rollout.kind == "edit":
            by_context.setdefault(rollout.context_id, {}).setdefault(rollout.edit_index, []).append(rollout)
    return [
        RolloutGroup(context_id, tuple(outcome_of(edits[index]) for index in sorted(edits)))
        for context_id, edits in by_context.items()
    ]


def outcome_of(repeats: Sequence[Rollout]) -> EditOutcome:
    """One self-edit with its repeats averaged; an edit of which a repeat diverged has no reward."""
    first = repeats[0]
    rewards = [rollout.reward for rollout in repeats if rollout.reward is not None]
    if any(rollout.status == "diverged" for rollout in repeats):
        rewards = []  # what it teaches the policy to write may blow up again
    return EditOutcome(
        context_id=first.context_id,
        edit_index=first.edit_index,
        prompt=first.prompt,
        text=first.text,
        reward=fmean(rewards) if rewards else None,
        score=fmean(rollout.score for rollout in repeats),
        gain=fmean(rollout.gain for rollout in repeats),
        repeats=len(rewards),
        baseline=fmean(rollout.baseline for rollout in repeats),
        edit_kind=first.edit_kind,
    )


def best_of(
    group: RolloutGroup,
    *,
    k: int = 1,
    above: float | None = None,
    min_reward: float | None = None,
    min_gain: float | None = None,
) -> list[EditOutcome]:
    """The `k` best usable edits of one context by reward, best first; fewer where the limits leave fewer.

    Args:
        group: The edits of the context.
        k: Edits kept.
        above: Only rewards above it; None for the authors' rule, by which the best edit is kept whatever it got.
        min_reward: Only such a reward or more.
        min_gain: Only such a gain or more.
    """
    usable = [
        outcome
        for outcome in group.outcomes
        if outcome.reward is not None
        and (above is None or _rounded(outcome.reward) > above)
        and (min_reward is None or outcome.reward >= min_reward)
        and (min_gain is None or outcome.gain >= min_gain)
    ]
    return sorted(usable, key=lambda outcome: (-_rounded(outcome.reward or 0.0), outcome.edit_index))[:k]


def without_repeats(ranked: Sequence[EditOutcome], *, k: int, most: float) -> tuple[list[EditOutcome], int]:
    """The first `k` edits of one context of which none is too much like one before it, and how many were passed over.

    Args:
        ranked: The edits that may be kept, best first.
        k: Edits kept.
        most: Greatest similarity of two kept edits (`seal_lightning.results.diversity.similarity`).
    """
    kept: list[EditOutcome] = []
    passed = 0
    for outcome in ranked:
        if len(kept) == k:
            break
        if any(similarity(outcome.text, other.text) > most for other in kept):
            passed += 1
        else:
            kept.append(outcome)
    return kept, passed


def without_merit(kept: Iterable[EditOutcome]) -> list[EditOutcome]:
    """Those of the kept edits that are not worth imitating: they earned no reward, or answer no better than before.

    An edit without a text is not imitated: a generator wrote its adapter, and learns from the poor ones, too.
    """
    return [
        outcome
        for outcome in kept
        if outcome.text
        and outcome.reward is not None
        and (_rounded(outcome.reward) <= 0.0 or _rounded(outcome.score) <= _rounded(outcome.baseline))
    ]


def _rounded(value: float) -> float:
    """Averaging can leave 1/3 + 1/3 + 1/3 short of 1: rounding makes such rewards tie, as they should."""
    return round(value, 9)


def lot_of(group: RolloutGroup, *, k: int = 1, seed: int = 0) -> list[EditOutcome]:
    """`k` usable edits of one context by lot, whatever their reward: the control of `best_of`."""
    usable = [outcome for outcome in group.outcomes if outcome.reward is not None]
    texts = [outcome.text for outcome in usable]  # another lot in every round
    draw = random.Random(derive_seed("random filter", seed, group.context_id, *texts))
    return draw.sample(usable, min(k, len(usable)))


def dealt_out(group: RolloutGroup, *, k: int = 1, seed: int = 0) -> RolloutGroup:
    """The group with its rewards dealt out anew, whatever was earned: what the control of comparisons learns from.

    The edits of `lot_of` get the best ones, and the others the rest by lot: as many pairs and advantages, of the same
    size, as with the true rewards, and nothing in them.
    """
    first = lot_of(group, k=k, seed=seed)
    others = [outcome for outcome in group.outcomes if outcome.reward is not None and outcome not in first]
    random.Random(derive_seed("dealt out", seed, group.context_id, *(one.text for one in others))).shuffle(others)
    rewards = sorted((one.reward for one in group.outcomes if one.reward is not None), reverse=True)
    dealt = {one.edit_index: reward for one, reward in zip([*first, *others], rewards, strict=True)}
    outcomes = (replace(outcome, reward=dealt.get(outcome.edit_index)) for outcome in group.outcomes)
    return RolloutGroup(group.context_id, tuple(outcomes))


def scored_edits(groups: Iterable[RolloutGroup], kept: Iterable[EditOutcome]) -> list[list[EditOutcome]]:
    """The edits with a reward of each context of which some edit was kept."""
    chosen = {outcome.context_id for outcome in kept}
    return [
        [outcome for outcome in group.outcomes if outcome.reward is not None]
        for group in groups
        if group.context_id in chosen
    ]


def best_and_worst(edits: Sequence[EditOutcome], kept: Iterable[EditOutcome]) -> tuple[EditOutcome, EditOutcome] | None:
    """The best kept edit of a context and the worst of the others, or None unless that has a lower reward.

    Both answer the same prompt: where a task has several kinds of self-edit, the worst is of the best one's kind.
    """
    chosen = {(outcome.context_id, outcome.edit_index) for outcome in kept}
    ordered = sorted(edits, key=lambda outcome: (_rounded(outcome.reward or 0.0), outcome.edit_index))
    good = [outcome for outcome in ordered if (outcome.context_id, outcome.edit_index) in chosen]
    if not good:
        return None
    best = max(good, key=lambda outcome: (_rounded(outcome.reward or 0.0), -outcome.edit_index))
    others = (outcome for outcome in ordered if (outcome.context_id, outcome.edit_index) not in chosen)
    worst = next((outcome for outcome in others if outcome.prompt == best.prompt), None)
    if worst is None:
        return None
    return (best, worst) if _rounded(best.reward or 0.0) > _rounded(worst.reward or 0.0) else None


def advantages(groups: Iterable[Sequence[EditOutcome]], *, scale: Scale) -> list[float]:
    """Reward less the mean of the group, for each edit in turn; 0 where a group's rewards are all alike.

    Args:
        groups: The scored edits of each context.
        scale: Divide by the standard deviation of rewards, plus 1e-4: of the edit's `group`, of the `batch` of all
            groups, or `none`.
    """
    rewards = [[_rounded(outcome.reward or 0.0) for outcome in group] for group in groups]
    everything = _deviation([reward for group in rewards for reward in group])
    gains: list[float] = []
    for group in rewards:
        deviation = {"group": _deviation(group) + STD_AT_LEAST, "batch": everything + STD_AT_LEAST, "none": 1.0}[scale]
        alike = len(set(group)) == 1
        gains += [0.0 if alike else (reward - fmean(group)) / deviation for reward in group]
    return gains


def _deviation(rewards: Sequence[float]) -> float:
    return stdev(rewards) if len(rewards) > 1 else 0.0
