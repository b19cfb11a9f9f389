"""What a generator learns from: training contexts, their queries as sequences, and the bank that takes its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from seal_lightning.generator.base import Adapters, GeneratorNetwork, flat_rows
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import TextStates, read_texts
from seal_lightning.generator.through_bank import losses_through, make_bank
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.isolation import BatchLoss
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.objectives import InnerObjective
from seal_lightning.inner_loop.packing import Aim, PackedSequence
from seal_lightning.tasks import Task
from seal_lightning.types import Context, EditOutcome, Prompt, Query


@dataclass(frozen=True, slots=True)
class ScoredContext:
    """A training context, and what came of its adapters in this round's E-step."""

    context: Context
    outcomes: tuple[EditOutcome, ...]


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a teacher says in place of each token that is learnt, (n, d), and the objective that makes a loss of it."""

    objective: InnerObjective
    states: torch.Tensor


@dataclass(frozen=True, slots=True)
class Exercise:
    """Token ids of which those from `start` on are learnt; `targets` may stand in place of them (`PackedSequence`).

    Where there is a `teaching`, they are learnt as it says.
    """

    tokens: Sequence[int]
    start: int
    targets: Sequence[int] | None = None
    teaching: Teaching | None = None

    def packed(self, slot: int, weight: float) -> PackedSequence:
        """As a sequence of an adapter."""
        said, end = self.teaching, len(self.tokens)
        aims = () if said is None else (Aim(said.objective, self.start, end, weight, said.states),)
        return PackedSequence(slot, self.tokens, self.start, weight, self.targets, aims)


@runtime_checkable
class Examiner(Protocol):
    """How a query is asked, as something with a loss: an answerer may be one; else queries are answered in words."""

    def exercise(self, policy: GeneratingPolicy, query: Query, context: Context) -> Exercise:
        """A query with its answer."""
        ...

    def token_loss(self, model: PreTrainedModel, adapted: set[str]) -> BatchLoss:
        """The loss of an exercise's targets, where these layers carry adapters."""
        ...


@dataclass(frozen=True, slots=True)
class InWords:
    """Queries that are answered in words: the loss is that of the first gold answer's tokens."""

    task: Task

    def exercise(self, policy: GeneratingPolicy, query: Query, context: Context) -> Exercise:
        """A query with its answer."""
        return self.answered(policy, self.task.query_prompt(query, context), query)

    def answered(self, policy: GeneratingPolicy, prompt: Prompt, query: Query, *, ended: bool = True) -> Exercise:
        """A prompt with a query's first gold answer behind it, and with the end of a text, if wanted."""
        start, gold = policy.encode(policy.format(prompt)), query.golds[0]
        if policy.template:
            return Exercise([*start, *policy.encode_reply(gold)], len(start))
        end = policy.encoder.end if ended else []
        return Exercise([*start, *policy.encoder.data(f" {gold}"), *end], len(start))

    def token_loss(self, model: PreTrainedModel, adapted: set[str]) -> BatchLoss:
        return HeadLoss(model, adapted=adapted)


class Classroom:
    """What objectives share while a generator is trained.

    Args:
        policy: The base model, and the network in training.
        task: What a context is.
        examiner: How queries are asked.
        seed: The run's seed.
        round: Counted from 0.
        earlier: The network as it was when this round's E-step explored; None where nothing was explored.
    """

    def __init__(
        self,
        policy: GeneratingPolicy,
        task: Task,
        examiner: Examiner,
        *,
        seed: int,
        round: int,
        earlier: GeneratorNetwork | None = None,
    ) -> None:
        self.policy, self.task, self.examiner = policy, task, examiner
        self.seed, self.round, self.earlier = seed, round, earlier
        self.in_words = InWords(task)
        self._bank: AdapterBank | None = None

    @property
    def network(self) -> GeneratorNetwork:
        return self.policy.network

    def read(self, contexts: Sequence[Context]) -> TextStates:
        """What the frozen model makes of some contexts."""
        return self.read_texts([text_of(self.task, context) for context in contexts])

    def read_texts(self, texts: Sequence[str]) -> TextStates:
        """What the frozen model makes of some texts."""
        return read_for(self.policy, texts)

    def losses(self, adapters: Adapters, exercises: Sequence[Sequence[Exercise]], loss: BatchLoss) -> torch.Tensor:
        """Mean loss of the targets of each adapter's own exercises, (N,), differentiable by the adapters."""
        bank = self.bank(len(exercises))
        sequences: list[PackedSequence] = []
        for slot, some in enumerate(exercises):
            learnt = sum(len(one.tokens) - max(1, one.start) for one in some)
            weight = 1.0 / max(1, learnt)
            sequences += [one.packed(slot, weight) for one in some]
        return losses_through(bank, flat_rows(adapters, list(bank.A), bank.width), sequences, loss)

    def bank(self, slots: int) -> AdapterBank:
        """A bank for training with at least so many slots."""
        if self._bank is None or len(self._bank.ranks) < slots:
            self._bank = make_bank(self.network.settings, self.policy.model, slots=slots, trainable=True)
        return self._bank

    @cached_property
    def query_loss(self) -> BatchLoss:
        return self.examiner.token_loss(self.policy.model, set(self.bank(1).A))

    @cached_property
    def text_loss(self) -> HeadLoss:
        """The loss of plain text."""
        return HeadLoss(self.policy.model, adapted=set(self.bank(1).A))

    def drift(self, adapters: Adapters) -> torch.Tensor:
        """The penalty on each adapter's change, (N,); see `Generator`."""
        return self.network.drift(adapters)

    def query_exercises(self, context: Context) -> list[Exercise]:
        """The queries of a context with their answers."""
        return [self.examiner.exercise(self.policy, query, context) for query in context.queries]


def text_of(task: Task, context: Context) -> str:
    """What a generator reads of a context: what the `passage` baseline trains on."""
    return "\n".join(one.prompt + one.text for one in task.passage_sequences(context))


def read_for(policy: GeneratingPolicy, texts: Sequence[str]) -> TextStates:
    """What the frozen model makes of some texts, as the policy's generator needs it."""
    network = policy.network
    targets = network.settings.targets(policy.model)
    return read_texts(policy, texts, targets=targets, hidden=network.reads_hidden)
