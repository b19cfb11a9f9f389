"""The training of one adapter, fixed before it starts: its sequences, their order, the rates and the layers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.objectives import InnerObjective, needs_source
from seal_lightning.inner_loop.packing import Aim, PackedSequence
from seal_lightning.models.layers import find_targets
from seal_lightning.tasks.layer_choice import chosen_layers


@dataclass(frozen=True, slots=True)
class JobStats:
    """What training one adapter came to.

    Attributes:
        steps: Optimizer steps, from the first to where it stands.
        trained_tokens: Tokens of the sequences in these steps, prompts included.
        truncated: Sequences that lost their end because they were too long.
        skipped: Sequences left out because none of their tokens carries loss.
        teacher_tokens: Tokens of the sequences as a teacher reads them, with their sources; each is read once.
        loss: Mean of the last epoch's step losses; nan if that epoch was not finished or nothing was trained.
        diverged: What was not finite, if that ended the training; the adapter then changes nothing.
        ignored: Names of directives that this model cannot follow.
    """

    steps: int
    trained_tokens: int
    truncated: int
    skipped: int
    teacher_tokens: int = 0
    loss: float = math.nan
    diverged: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A training sequence in tokens.

    Attributes:
        tokens: All of it.
        prompt: How many of them, at the beginning, carry no loss.
        source: What a teacher reads before the tokens that it can be asked about; empty if there is no teacher.
        told_from: Where those tokens begin, behind the prompt and the heading.
        told_to: Where they end, before the EOS.
    """

    tokens: list[int]
    prompt: int
    source: list[int] = field(default_factory=list)
    told_from: int = 0
    told_to: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest pass that it needs."""
        return max(len(self.tokens), len(self.source) + self.told_to - self.told_from)

    @property
    def told(self) -> list[int]:
        """The tokens that a teacher can be asked about."""
        return self.tokens[self.told_from : self.told_to]

    def aim(self, objective: InnerObjective) -> tuple[int, int]:
        """Where the tokens that an objective is about begin and end."""
        if objective.from_teacher:
            return self.told_from, self.told_to
        return max(1, self.prompt), len(self.tokens)


LOOKED_AT = 8  # training sequences whose loss is measured
Objectives = tuple[tuple[InnerObjective, float], ...]  # with their weights


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """The training of one adapter.

    Attributes:
        seed: Seed of its first weights.
        rank: Rank of the adapter.
        sequences: The training sequences.
        batches: Numbers of the sequences in each step.
        rates: Learning rate of each step.
        epoch_steps: Steps of one epoch.
        stats: What the whole training comes to, except its loss.
        objectives: What the sequences are trained towards.
        layers: Names of the layers that are trained; None for all that have adapters.
    """

    seed: int
    rank: int
    sequences: list[Encoded]
    batches: list[list[int]]
    rates: list[float]
    epoch_steps: int
    stats: JobStats
    objectives: Objectives
    layers: frozenset[str] | None = None

    def stats_at(self, step: int, loss: float, diverged: str = "") -> JobStats:
        """What the training came to if it stands before `step`; `loss` is the sum over the last epoch."""
        tokens = sum(len(self.sequences[index].tokens) for batch in self.batches[:step] for index in batch)
        finished = 0 < self.stats.steps <= step and not diverged
        mean = loss / self.epoch_steps if finished else math.nan
        return replace(self.stats, steps=step, trained_tokens=tokens, loss=mean, diverged=diverged)

    @property
    def has_teacher(self) -> bool:
        return needs_source(self.objectives)

    @torch.no_grad()
    def loss_under(self, model: PreTrainedModel) -> float | None:
        """Mean loss per token of the training text under a model as it is; None if there is none.

        If there are many training sequences, a sample of them is measured.
        """
        total, count = 0.0, 0
        for one in self.sequences[:: -(-len(self.sequences) // LOOKED_AT) or 1]:
            ids, start = torch.tensor([one.tokens], device=model.device), max(one.prompt, 1)
            logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
            total += float(nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum"))
            count += len(ids[0, start:])
        return total / count if count else None

    def minibatch(self, step: int) -> list[Encoded]:
        """The sequences of one step."""
        return [self.sequences[index] for index in self.batches[step]]

    def packed(
        self, sequences: Sequence[Encoded], *, slot: int, said: Callable[[Encoded], torch.Tensor]
    ) -> list[PackedSequence]:
        """The sequences of one step for the adapter in `slot`; the targets of an objective together have its weight.

        Args:
            sequences: Those of the step.
            slot: Where the adapter is.
            said: What the teacher says about a sequence.
        """
        aims: list[list[Aim]] = [[] for _ in sequences]
        for objective, weight in self.objectives:
            spans = [one.aim(objective) for one in sequences]
            each = weight / sum(end - start for start, end in spans)
            for own, one, (start, end) in zip(aims, sequences, spans, strict=True):
                own.append(Aim(objective, start, end, each, said(one) if objective.from_teacher else None))
        return [
            PackedSequence(slot, one.tokens, one.prompt, 0.0, aims=tuple(own))
            for one, own in zip(sequences, aims, strict=True)
        ]


def shuffled_batches(sequences: Sequence[object], *, epochs: int, batch_size: int, seed: int) -> list[list[int]]:
    """Numbers of the sequences in each step, in another order every epoch."""
    shuffle = random.Random(seed)
    batches: list[list[int]] = []
    for _ in range(epochs):
        order = list(range(len(sequences)))
        shuffle.shuffle(order)
        batches += [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    return batches


def trained_layers(
    model: PreTrainedModel, adapted: str | Sequence[str] | None, setting: str | None, asked: str | None
) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Names of the layers that an adapter trains, None for all, and names of directives that the model cannot follow.

    Args:
        model: The model.
        adapted: Which layers have adapters (`find_targets`).
        setting: Those of them that are trained where an edit names none; None for all.
        asked: Those that an edit names.

    Raises:
        ConfigError: The model has none of the layers of the setting.
    """
    if asked is None and setting is None:
        return None, ()
    names = [target.name for target in find_targets(model, adapted)]
    if asked is not None and (chosen := chosen_layers(asked, names)):
        return chosen, ()
    ignored = () if asked is None else ("layers",)
    if setting is None:
        return None, ignored
    if not (chosen := chosen_layers(setting, names)):
        raise ConfigError(
            f"model.inner_loop.layers must name some of the layers with adapters ({names[0]} to {names[-1]}), "
            f"got {setting!r}: try first half"
        )
    return chosen, ignored
