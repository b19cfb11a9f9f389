"""The training of one adapter, fixed before it starts: its sequences, their order, and the learning rates."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seal_lightning.inner_loop.packing import PackedSequence


@dataclass(frozen=True, slots=True)
class JobStats:
    """What training one adapter came to.

    Attributes:
        steps: Optimizer steps, from the first to where it stands.
        trained_tokens: Tokens of the sequences in these steps, prompts included.
        truncated: Sequences that lost their end because they were too long.
        skipped: Sequences left out because none of their tokens carries loss.
        loss: Mean of the last epoch's step losses; nan if that epoch was not finished or nothing was trained.
        diverged: What was not finite, if that ended the training; the adapter then changes nothing.
        ignored: Names of directives that this model cannot follow.
    """

    steps: int
    trained_tokens: int
    truncated: int
    skipped: int
    loss: float = math.nan
    diverged: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """The training of one adapter.

    Attributes:
        seed: Seed of its first weights.
        rank: Rank of the adapter.
        sequences: Tokens of each training sequence, and how many of them are the prompt.
        batches: Numbers of the sequences in each step.
        rates: Learning rate of each step.
        epoch_steps: Steps of one epoch.
        stats: What the whole training comes to, except its loss.
        layers: Names of the layers that are trained; None for all that have adapters.
    """

    seed: int
    rank: int
    sequences: list[tuple[list[int], int]]
    batches: list[list[int]]
    rates: list[float]
    epoch_steps: int
    stats: JobStats
    layers: frozenset[str] | None = None

    def stats_at(self, step: int, loss: float, diverged: str = "") -> JobStats:
        """What the training came to if it stands before `step`; `loss` is the sum over the last epoch."""
        tokens = sum(len(self.sequences[index][0]) for batch in self.batches[:step] for index in batch)
        finished = 0 < self.stats.steps <= step and not diverged
        mean = loss / self.epoch_steps if finished else math.nan
        return replace(self.stats, steps=step, trained_tokens=tokens, loss=mean, diverged=diverged)

    def minibatch(self, step: int, *, slot: int) -> list[PackedSequence]:
        """The sequences of one step for the adapter in `slot`; together their targets weigh 1."""
        chosen = [self.sequences[index] for index in self.batches[step]]
        weight = 1.0 / sum(len(tokens) - max(1, prompt) for tokens, prompt in chosen)
        return [PackedSequence(slot, tokens, prompt, weight) for tokens, prompt in chosen]


def shuffled_batches(sequences: Sequence[object], *, epochs: int, batch_size: int, seed: int) -> list[list[int]]:
    """Numbers of the sequences in each step, in another order every epoch."""
    shuffle = random.Random(seed)
    batches: list[list[int]] = []
    for _ in range(epochs):
        order = list(range(len(sequences)))
        shuffle.shuffle(order)
        batches += [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    return batches
