"""Held-out contexts before and after training: whose score changed by how much, and which of them is typical."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from seal_lightning.results.accuracy import group_by_context
from seal_lightning.types import Rollout


def typical_pair(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[Rollout, Rollout]:
    """The first self-edits of one context in two validations: of that whose score rose by the median amount."""
    earlier, later = edits_by_context(before), edits_by_context(after)
    gains = {name: mean_score(later[name]) - mean_score(earlier[name]) for name in earlier if name in later}
    chosen = sorted(gains, key=lambda name: (gains[name], name))[len(gains) // 2]
    return earlier[chosen][0], later[chosen][0]


def edits_by_context(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """The rollouts of own edits, by context."""
    return group_by_context([rollout for rollout in rollouts if rollout.kind == "edit"])


def mean_score(rollouts: Sequence[Rollout]) -> float:
    """Of several edits or repeats."""
    return fmean(rollout.score for rollout in rollouts)


def passage_of(rollout: Rollout) -> str:
    """The passage in an edit's prompt, as the knowledge task writes it."""
    return rollout.prompt.rpartition("Passage: ")[2].partition("\n")[0]
