"""The control of ReST-EM: edits kept at random. What it wins is not the reward's doing.

Objectives that compare edits see rewards that are dealt out anew, so that it is their control, too.
"""

from collections.abc import Sequence

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter
from seal_lightning.m_step.selection import dealt_out, lot_of
from seal_lightning.types import EditOutcome, RolloutGroup


class RandomFilter(EditFilter):
    """Keeps randomly drawn usable edits of every context, whatever their reward.

    Args:
        k: Number of edits kept of each context.
        seed: Seed of the draw.
    """

    by_reward = False

    def __init__(self, *, k: int = 1, seed: int = 0) -> None:
        if k < 1:
            raise ConfigError(f"filter.k must be at least 1, got {k}")
        self.k = k
        self.seed = seed

    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        return [outcome for group in groups for outcome in lot_of(group, k=self.k, seed=self.seed)]

    def compared(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        return [dealt_out(group, k=self.k, seed=self.seed) for group in groups]
