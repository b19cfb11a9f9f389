"""ReST-EM's filter: the policy learns from the best self-edits of each context (arXiv 2506.10943, section 3.1)."""

from collections.abc import Sequence

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter
from seal_lightning.selection import best_of
from seal_lightning.types import EditOutcome, RolloutGroup


class ReSTEMFilter(EditFilter):
    """Keeps the best edits of every context by reward; ties go to the edit sampled first.

    Args:
        k: Edits kept a context (paper: 1 for knowledge; a large number keeps every edit above the minima, as for ARC).
        min_reward: Keep no edit with a smaller reward.
        min_gain: Keep no edit with a smaller gain over the baseline.
    """

    def __init__(self, *, k: int = 1, min_reward: float | None = None, min_gain: float | None = None) -> None:
        if k < 1:
            raise ConfigError(f"filter.k must be at least 1, got {k}")
        self.k = k
        self.min_reward = min_reward
        self.min_gain = min_gain

    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        return [
            outcome
            for group in groups
            for outcome in best_of(group, k=self.k, min_reward=self.min_reward, min_gain=self.min_gain)
        ]
