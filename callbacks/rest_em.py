"""ReST-EM's filter: the policy learns from the best self-edits of each context (arXiv 2506.10943, section 3.1)."""

import math
from collections.abc import Sequence

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter
from seal_lightning.m_step.selection import ABOVE, best_of
from seal_lightning.types import EditOutcome, RolloutGroup


class ReSTEMFilter(EditFilter):
    """Keeps the best edits of every context by reward; ties go to the edit sampled first.

    Args:
        k: Edits kept a context (paper: 1 for knowledge; a large number keeps every edit above the minima, as for ARC).
        above: Keep only edits with a larger reward, since one of reward 0 is not worth imitating; null for the authors'
            rule, which keeps the best edit of a context whatever its reward.
        min_reward: Keep no edit with a smaller reward.
        min_gain: Keep no edit with a smaller gain over the baseline.
    """

    def __init__(
        self,
        *,
        k: int = 1,
        above: float | None = ABOVE,
        min_reward: float | None = None,
        min_gain: float | None = None,
    ) -> None:
        if k < 1:
            raise ConfigError(f"filter.k must be at least 1, got {k}")
        if above is not None and not math.isfinite(above):
            raise ConfigError(f"filter.above must be a number, got {above}: set it to null to keep every reward")
        if above is not None and min_reward is not None and min_reward <= above:
            raise ConfigError(
                f"filter.min_reward must be more than filter.above, which is {above:g}, got {min_reward:g}: set "
                "filter.above to null to keep such rewards"
            )
        self.k = k
        self.above = above
        self.min_reward = min_reward
        self.min_gain = min_gain

    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        return [
            outcome
            for group in groups
            for outcome in best_of(
                group, k=self.k, above=self.above, min_reward=self.min_reward, min_gain=self.min_gain
            )
        ]
