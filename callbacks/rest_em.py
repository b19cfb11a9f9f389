"""ReST-EM's filter: the policy learns from the best self-edits of each context (arXiv 2506.10943, section 3.1)."""

import math
from collections.abc import Sequence

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter
from seal_lightning.m_step.selection import ABOVE, best_of, without_repeats
from seal_lightning.text.plural import counted
from seal_lightning.types import EditOutcome, RolloutGroup


class ReSTEMFilter(EditFilter):
    """Keeps the best edits of every context by reward; ties go to the edit sampled first.

    Args:
        k: Edits kept a context (paper: 1 for knowledge; a large number keeps every edit above the minima, as for ARC).
        above: Keep only edits with a larger reward, since one of reward 0 is not worth imitating; null for the authors'
            rule, which keeps the best edit of a context whatever its reward.
        min_reward: Keep no edit with a smaller reward.
        min_gain: Keep no edit with a smaller gain over the baseline.
        max_similarity: Pass an edit over, and keep the next best in its place, if it is more like one already kept of
            its context than this, where 1 is the same text (`seal_lightning.results.diversity.similarity`); null keeps
            repeats.
    """

    def __init__(
        self,
        *,
        k: int = 1,
        above: float | None = ABOVE,
        min_reward: float | None = None,
        min_gain: float | None = None,
        max_similarity: float | None = None,
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
        if max_similarity is not None and not 0 <= max_similarity < 1:
            raise ConfigError(
                f"filter.max_similarity must be at least 0 and below 1, got {max_similarity}: try 0.9, or null to keep "
                "repeats"
            )
        self.k = k
        self.above = above
        self.min_reward = min_reward
        self.min_gain = min_gain
        self.max_similarity = max_similarity
        self._passed = 0

    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        kept: list[EditOutcome] = []
        self._passed = 0
        for group in groups:
            k = self.k if self.max_similarity is None else len(group.outcomes)
            best = best_of(group, k=k, above=self.above, min_reward=self.min_reward, min_gain=self.min_gain)
            if self.max_similarity is not None:
                best, passed = without_repeats(best, k=self.k, most=self.max_similarity)
                self._passed += passed
            kept += best
        return kept

    def remark(self) -> str:
        return f"{counted(self._passed, 'edit')} passed over, too much like a better one" if self._passed else ""
