"""Held-out contexts before and after training: whose score changed by how much, and which of them is typical."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from seal_lightning.results.averages import by_context, context_means, score
from seal_lightning.types import Rollout


def typical_pair(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[Rollout, Rollout]:
    """The first self-edits of one context in two validations: of the one whose score rose by the median amount."""
    earlier, later = edits_by_context(before), edits_by_context(after)
    first, last = context_means(chain(*earlier.values()), score), context_means(chain(*later.values()), score)
    gains = {name: last[name] - first[name] for name in first if name in last}
    chosen = sorted(gains, key=lambda name: (gains[name], name))[len(gains) // 2]
    return earlier[chosen][0], later[chosen][0]


def edits_by_context(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """The rollouts of own edits, by context."""
    return by_context([rollout for rollout in rollouts if rollout.kind == "edit"])


def passage_of(rollout: Rollout) -> str:
    """The passage in an edit's prompt, as the knowledge task writes it."""
    return rollout.prompt.rpartition("Passage: ")[2].partition("\n")[0]
