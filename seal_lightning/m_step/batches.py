"""The M-step's data and settings: prompt -> edit in batches, with loss on the edit alone (`objectives.py` says which).

The whole M-step of a round is one list of batches (all its epochs in order) that the run seed and the round decide, so
that a resumed M-step continues at the batch where it stopped. Lightning does the optimisation (`module.py`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.m_step.objectives import IGNORED, MStepObjective, Taught, resolve_objective
from seal_lightning.models.schedule import learning_rate_factor
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed
from seal_lightning.types import Schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MStep:
    """How the policy is fine-tuned on the edits of a round.

    Args:
        objective: What it is trained towards: `sft` (the kept edits, as in the paper), `weighted`, `dpo`, `grpo`, or a
            class of your own.
        learning_rate: Peak learning rate of AdamW (paper: 3e-4 for knowledge, 5e-5 for ARC).
        epochs: Passes over what a round teaches (paper: 2 and 8).
        batch_size: Edits, or pairs of edits, a forward pass; with n ranks an optimizer step has n times as many, and
            `trainer.accumulate_grad_batches` multiplies them.
        effective_batch: Edits, or pairs, of an optimizer step whatever the number of ranks: gradients are accumulated
            until there are as many. A multiple of `batch_size`; where the ranks do not divide it, some of them idle a
            little.
        schedule: Course of the learning rate within a round.
        warmup: Share of a round's steps over which the learning rate rises.
        weight_decay: Weight decay of AdamW.
        max_length: Longest prompt plus edit in tokens; longer edits lose their end.
    """

    learning_rate: float = 3e-4
    epochs: int = 2
    batch_size: int = 1
    effective_batch: int | None = None
    schedule: Schedule = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_length: int = 4096
    objective: MStepObjective | str = "sft"

    def __post_init__(self) -> None:
        resolve_objective(self.objective)
        if not 0 < self.learning_rate <= 1e36:  # beyond, a step of AdamW overflows before it is made
            raise ConfigError(f"model.m_step.learning_rate must be above 0, and at most 1e36, got {self.learning_rate}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"model.m_step.weight_decay must be 0 or more, got {self.weight_decay}")
        for name in ("epochs", "batch_size", "effective_batch", "max_length"):
            if getattr(self, name) is not None:
                check_count(f"model.m_step.{name}", getattr(self, name))
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"model.m_step.warmup must be in [0, 1), got {self.warmup}")
        if self.effective_batch is not None and self.effective_batch % self.batch_size:
            raise ConfigError(
                f"model.m_step.effective_batch must be a multiple of batch_size {self.batch_size}, got "
                f"{self.effective_batch}"
            )

    @property
    def goal(self) -> MStepObjective:
        """The objective itself."""
        return resolve_objective(self.objective)

    def batches(self, taught: int) -> int:
        """Batches of a round that teaches so many edits or pairs."""
        return self.epochs * math.ceil(taught / self.batch_size)

    def rate_factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at optimizer step `step` (from 0) of a round's `steps`."""
        return learning_rate_factor(self.schedule, step, steps, warmup=round(self.warmup * steps))

    def shares(self, ranks: int, *, accumulation: int) -> Shares:
        """How an optimizer step's batches are shared out.

        Args:
            ranks: Number of ranks.
            accumulation: The trainer's `accumulate_grad_batches`, used if no effective batch is set.

        Raises:
            ConfigError: Both are set.
        """
        if self.effective_batch is None:
            return Shares(ranks, accumulation, ranks * accumulation)
        if accumulation != 1:
            raise ConfigError(
                f"trainer.accumulate_grad_batches must stay 1 with model.m_step.effective_batch, got {accumulation}: "
                "it follows from the effective batch"
            )
        batches = self.effective_batch // self.batch_size
        return Shares(ranks, math.ceil(batches / ranks), batches)


@dataclass(frozen=True, slots=True)
class Shares:
    """The batches of an optimizer step: `batches` real ones in `ranks` x `accumulation` places, taken in turn by ranks.

    Places without a batch, also those of a round's last step, are filled with one that counts for nothing. So all ranks
    step together, and what is learnt does not depend on how many there are.
    """

    ranks: int
    accumulation: int
    batches: int

    @property
    def places(self) -> int:
        return self.ranks * self.accumulation

    def steps(self, plan: int) -> int:
        """Optimizer steps for a plan of so many batches."""
        return math.ceil(plan / self.batches)

    def fill(self, plan: Sequence[list[int]], *, filler: list[int]) -> list[list[int]]:
        """The plan with a batch in every place."""
        steps = [plan[at : at + self.batches] for at in range(0, len(plan), self.batches)]
        return [batch for step in steps for batch in [*step, *[filler] * (self.places - len(step))]]

    def weight(self, number: int | None) -> float:
        """Factor for the loss of a batch, since Lightning and the ranks average over places; 0 for filler."""
        return 0.0 if number is None else self.places / self.batches

    def number(self, place: int, plan: int) -> int | None:
        """Which of the plan's batches is in `place` of the round, counted over all steps and ranks; None for filler."""
        step, within = divmod(place, self.places)
        number = step * self.batches + within
        return number if within < self.batches and number < plan else None


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence: `input_ids` and `labels` of equal length, `IGNORED` on the prompt; `whole` is its length uncut."""

    input_ids: list[int]
    labels: list[int]
    whole: int = 0


def encode_example(policy: Policy, prompt: str, text: str, *, max_length: int) -> Example:
    """Tokenise one kept edit after its prompt, with what ends a text of the policy (so that it learns to stop).

    That is the EOS token, or for an instruct model the token with which its chat template ends a turn.

    Raises:
        ConfigError: The prompt alone fills `max_length`; a sequence without any loss would make the weights nan.
    """
    start = policy.encode(prompt)
    if len(start) >= max_length:
        raise ConfigError(
            f"model.m_step.max_length must be above the {len(start)} tokens of the longest prompt, got {max_length}: "
            "raise it (at most to the model's window) and resume, the E-step's work is kept"
        )
    target = policy.encode_reply(text)
    whole = [*start, *target]
    labels = [*[IGNORED] * len(start), *target]
    return Example(whole[:max_length], labels[:max_length], len(whole))


@dataclass(frozen=True, slots=True)
class TaughtExamples:
    """A `Taught` in tokens: its edits' sequences, its value, and the reference of each edit, where it was asked.

    `reference` has a float32 tensor an edit, of as many log-probabilities as the edit has tokens (and its end).
    """

    examples: tuple[Example, ...]
    value: float
    reference: tuple[torch.Tensor, ...] = ()


def encode_taught(policy: Policy, taught: Sequence[Taught], *, settings: MStep) -> list[TaughtExamples]:
    """What a round teaches in tokens. Raises `ConfigError` as `encode_example`."""
    limit = min(settings.max_length, policy.window)
    return [
        TaughtExamples(
            tuple(encode_example(policy, edit.prompt, edit.text, max_length=limit) for edit in one.outcomes), one.value
        )
        for one in taught
    ]


def tell_truncated(taught: Iterable[TaughtExamples], settings: MStep, *, only: bool = True) -> int:
    """How many edits lost their end; logged where `only`."""
    examples = [example for one in taught for example in one.examples]
    cut = [example for example in examples if example.whole > len(example.input_ids)]
    if cut and only:
        log.warning(
            "M-step: %d of %d edits lost their end, the longest has %d tokens with its prompt: raise "
            "model.m_step.max_length (%d; at most to the model's window), or lower the sampler's max_new_tokens",
            len(cut),
            len(examples),
            max(example.whole for example in cut),
            settings.max_length,
        )
    return len(cut)


def batch_plan(examples: int, *, settings: MStep, seed: int, round: int) -> list[list[int]]:
    """All batches of a round's M-step as lists of example numbers: each epoch shuffled by (seed, round, epoch)."""
    batches: list[list[int]] = []
    for epoch in range(settings.epochs):
        order = list(range(examples))
        random.Random(derive_seed("m-step", seed, round, epoch)).shuffle(order)
        batches += [order[at : at + settings.batch_size] for at in range(0, examples, settings.batch_size)]
    return batches


class PlannedBatches(Sampler[list[int]]):
    """The batches of a plan from `start` on; its length is the whole plan's, as Lightning counts."""

    def __init__(self, plan: Sequence[list[int]], *, start: int = 0) -> None:
        self.plan = plan
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.plan[self.start :])

    def __len__(self) -> int:
        return len(self.plan)


def collated(batch: Sequence[TaughtExamples], *, pad: int) -> dict[str, torch.Tensor]:
    """A batch as tensors: `input_ids`, `attention_mask` and `labels` (N, T), `values` (B,), `reference` (N, T - 1).

    The last is there where references were asked for.
    """
    examples = [example for one in batch for example in one.examples]
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: Iterable[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])

    made = {
        "input_ids": padded((example.input_ids for example in examples), pad),
        "attention_mask": padded(([1] * len(example.input_ids) for example in examples), 0),
        "labels": padded((example.labels for example in examples), IGNORED),
        "values": torch.tensor([one.value for one in batch], dtype=torch.float32),
    }
    if all(one.reference for one in batch):
        mask = made["labels"][:, 1:] != IGNORED
        reference = torch.zeros(mask.shape, dtype=torch.float32)
        reference[mask] = torch.cat([logps for one in batch for logps in one.reference])
        made["reference"] = reference
    return made


def make_loader(
    taught: Sequence[TaughtExamples],
    *,
    pad: int,
    settings: MStep,
    seed: int,
    round: int,
    start: int = 0,
    rank: int = 0,
    shares: Shares = Shares(1, 1, 1),
) -> DataLoader:
    """One rank's batches of the M-step, as `collated` makes them.

    Args:
        taught: What the round teaches.
        pad: The token that rows are filled up with.
        settings: Objective, epochs and batch size.
        seed: The run's seed.
        round: Counted from 0.
        start: Batches of this rank that are done already.
        rank: This rank; place i of the round belongs to rank i modulo `shares.ranks`.
        shares: How the batches of a step are shared out.
    """
    plan = batch_plan(len(taught), settings=settings, seed=seed, round=round)
    shortest = min(range(len(taught)), key=lambda number: sum(len(one.input_ids) for one in taught[number].examples))
    return planned_loader(
        taught, plan, partial(collated, pad=pad), start=start, rank=rank, shares=shares, filler=shortest
    )


def planned_loader(
    items: Sequence[object],
    plan: Sequence[list[int]],
    collate: Callable[[Any], object],
    *,
    start: int = 0,
    rank: int = 0,
    shares: Shares = Shares(1, 1, 1),
    filler: int = 0,
) -> DataLoader:
    """One rank's batches of a plan.

    Args:
        items: What the numbers of the plan stand for.
        plan: The batches of all ranks.
        collate: Makes a batch of some items.
        start: Batches of this rank that are done already.
        rank: This rank; place i of the round belongs to rank i modulo `shares.ranks`.
        shares: How the batches of a step are shared out.
        filler: Number of the item in a place without a batch.
    """
    places = shares.fill(plan, filler=[filler])
    return DataLoader(
        items,  # type: ignore[arg-type]
        batch_sampler=PlannedBatches(places[rank :: shares.ranks], start=start),
        collate_fn=collate,
    )
