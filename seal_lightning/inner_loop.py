"""SEAL's inner loop: train one temporary LoRA for each self-edit, many at once (arXiv 2506.10943, section 3.2).

Every adapter follows its own plan: its own data order, batch size, epochs, learning rate and schedule, set here and
overridden by its edit's directives. One step of the loop takes the next minibatch of every adapter that still has one;
their sequences are packed into common rows. The loss is the sum over adapters of each one's mean token loss, so the
adapters do not influence each other. What is left out: dropout, warm-up, gradient accumulation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch.nn import functional
from transformers.utils.generic import is_flash_attention_requested

from seal_lightning.adapters import AdapterBank, save_adapter
from seal_lightning.errors import ConfigError
from seal_lightning.packing import PackedBatch, PackedSequence, pack
from seal_lightning.types import AdapterJob, Schedule, TrainingSequence

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class JobStats:
    """What training one adapter came to.

    Attributes:
        steps: Optimizer steps.
        trained_tokens: Tokens of its sequences over all epochs, prompts included.
        truncated: Sequences that lost their end to the longest length.
        skipped: Sequences left out because no token of them carries loss.
        loss: Mean of the last epoch's step losses; nan where nothing was trained.
    """

    steps: int
    trained_tokens: int
    truncated: int
    skipped: int
    loss: float = math.nan


@dataclass(frozen=True, slots=True)
class TrainedBank:
    """The adapters of some jobs after training. `padding` is the share of tokens that were only padding."""

    bank: AdapterBank
    slots: tuple[int, ...]
    stats: tuple[JobStats, ...]
    padding: float

    @contextmanager
    def answering(self, jobs: Sequence[int | None]) -> Iterator[None]:
        """Run the model with the adapter of job `jobs[b]` on row b (None: without one)."""
        rows = [-1 if job is None else self.slots[job] for job in jobs]
        with self.bank.attached(), self.bank.routing(torch.tensor(rows, device=self.bank.parameters.device)):
            yield

    def save(self, job: int, folder: str | Path) -> None:
        """Write the adapter of one job as a PEFT folder."""
        save_adapter(self.bank, self.slots[job], folder)


@dataclass(frozen=True, slots=True)
class _Plan:
    """One adapter's training, fixed before it starts: token lists, batches in order, learning rates by step."""

    sequences: list[tuple[list[int], int]]  # tokens, and how many of them are the prompt
    batches: list[list[int]]
    rates: list[float]
    epoch_steps: int
    stats: JobStats


@dataclass(frozen=True)
class InnerLoop:
    """Settings of the inner loop; the defaults are the paper's for knowledge incorporation.

    Args:
        rank: Of each LoRA.
        alpha: Of each LoRA; its output is multiplied by alpha / rank.
        target_modules: `default` (peft's choice, for Llama and Qwen the q and v projections as in the paper),
            `all-linear`, or names of layers.
        learning_rate: Peak of AdamW.
        schedule: `linear` and `cosine` fall to 0 at the last step.
        epochs: Passes over an edit's training sequences.
        batch_size: Sequences a step.
        gradient_clip: Largest norm of an adapter's gradient; 0 or null for none.
        weight_decay: Of AdamW.
        betas: Of AdamW.
        max_length: Longest training sequence in tokens; longer ones lose their end.
        append_eos: End each training sequence with the EOS token.
        max_adapters: Adapters trained together.
        max_tokens: Tokens of one forward pass, padding included; a step of all adapters is split to stay below, and
            only a single longer sequence goes over.
    """

    rank: int = 32
    alpha: float = 64.0
    target_modules: str | list[str] | None = "default"
    learning_rate: float = 1e-3
    schedule: Schedule = "linear"
    epochs: int = 10
    batch_size: int = 1
    gradient_clip: float | None = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_length: int = 2048
    append_eos: bool = True
    max_adapters: int = 16
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch_size", "max_adapters", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.inner_loop.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length < 2:
            raise ConfigError(f"model.inner_loop.max_length must be at least 2, got {self.max_length}")
        for name in ("alpha", "learning_rate"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"model.inner_loop.{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("gradient_clip", "weight_decay"):
            if not ((getattr(self, name) or 0.0) >= 0):  # also refuses nan
                raise ConfigError(f"model.inner_loop.{name} must be 0 or more, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"model.inner_loop.betas must be two numbers in [0, 1), got {self.betas}")
        if self.schedule not in get_args(Schedule):
            raise ConfigError(
                f"model.inner_loop.schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule}"
            )
        if self.target_modules is not None and not self.target_modules:
            raise ConfigError(
                "model.inner_loop.target_modules must name at least one layer, got none: give default, all-linear or "
                "names of layers"
            )

    def chunks(self, jobs: Sequence[AdapterJob]) -> list[Sequence[AdapterJob]]:
        """The jobs in order, cut into what one `adapt` takes."""
        return [jobs[start : start + self.max_adapters] for start in range(0, len(jobs), self.max_adapters)]

    def total_steps(self, jobs: Sequence[AdapterJob]) -> int:
        """Optimizer steps of all jobs together, for progress; fewer are made where sequences have to be skipped."""
        return sum(self._steps(job) for job in jobs)

    def adapt(
        self,
        model: Any,
        tokenizer: Any,
        jobs: Sequence[AdapterJob],
        *,
        on_step: Callable[[int], None] | None = None,
    ) -> TrainedBank:
        """Train one adapter for each job.

        Args:
            model: Frozen causal language model in evaluation mode.
            tokenizer: Its tokenizer, with a pad token.
            jobs: At most `max_adapters` (see `chunks`). One without anything to train on leaves its adapter as it was
                drawn, which changes nothing in the model.
            on_step: Told how many optimizer steps were made since the last call.

        Returns:
            The bank; job i is what `answering` and `save` call i.

        Raises:
            ConfigError: There are too many jobs, or `target_modules` does not fit the model.
        """
        if len(jobs) > self.max_adapters:
            raise ConfigError(
                f"model.inner_loop.max_adapters must be at least the number of jobs trained together, got "
                f"{self.max_adapters} for {len(jobs)} jobs: cut them with InnerLoop.chunks"
            )
        assert not model.training, "the policy has to be in evaluation mode: dropout would differ from row to row"
        plans = [self._plan(job, model, tokenizer) for job in jobs]
        # Slots in order of falling length: the adapters that still train are then always the first ones.
        order = sorted(range(len(jobs)), key=lambda job: (-plans[job].stats.steps, job))
        bank = AdapterBank(
            model,
            slots=len(jobs),
            rank=self.rank,
            alpha=self.alpha,
            target_modules=self.target_modules,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )
        for slot, job in enumerate(order):
            bank.reset(slot, seed=jobs[job].seed)
        losses, padding = self._train(bank, [plans[job] for job in order], tokenizer.pad_token_id, on_step)
        slots = {job: slot for slot, job in enumerate(order)}
        stats = tuple(replace(plan.stats, loss=losses[slots[job]]) for job, plan in enumerate(plans))
        return TrainedBank(bank, tuple(slots[job] for job in range(len(jobs))), stats, padding)

    def _train(
        self, bank: AdapterBank, plans: Sequence[_Plan], pad_token: int, on_step: Callable[[int], None] | None
    ) -> tuple[list[float], float]:
        """Make every step; returns each slot's mean loss of its last epoch, and the share of padding."""
        steps = max((plan.stats.steps for plan in plans), default=0)
        losses = torch.zeros(steps, len(plans), device=bank.parameters.device)
        padded = total = 0
        with torch.enable_grad(), bank.attached():
            for step in range(steps):
                active = [plan for plan in plans if plan.stats.steps > step]
                for part in self._parts([s for slot, plan in enumerate(active) for s in _minibatch(plan, slot, step)]):
                    batch = pack(part, pad_token=pad_token).to(bank.parameters.device)
                    padded, total = padded + batch.padding, total + batch.slots.numel()
                    _backward(bank, batch, losses[step])
                rates = torch.tensor([plan.rates[step] for plan in active])
                bank.step(rates, max_norm=self.gradient_clip or None)
                if on_step is not None:
                    on_step(len(active))
        last = [losses[plan.stats.steps - plan.epoch_steps : plan.stats.steps, slot] for slot, plan in enumerate(plans)]
        return [part.mean().item() if len(part) else math.nan for part in last], padded / total if total else 0.0

    def _parts(self, sequences: Sequence[PackedSequence]) -> list[list[PackedSequence]]:
        """Deal a step to forward passes whose packed rows hold at most `max_tokens` (or one sequence).

        First fit of falling lengths, as `pack` does it, so that long sequences meet and little of a pass is padding.
        """
        parts: list[list[PackedSequence]] = []
        rooms: list[list[int]] = []  # of each pass, what is left in its rows
        for sequence in sorted(sequences, key=lambda s: -len(s.tokens)):
            length = len(sequence.tokens)
            for part, room in zip(parts, rooms, strict=True):
                row = next((number for number, left in enumerate(room) if left >= length), None)
                if row is not None:
                    room[row] -= length
                elif (len(room) + 1) * len(part[0].tokens) <= self.max_tokens:
                    room.append(len(part[0].tokens) - length)
                else:
                    continue
                part.append(sequence)
                break
            else:
                parts.append([sequence])
                rooms.append([0])
        return parts

    def _steps(self, job: AdapterJob) -> int:
        return _given(job.directives.epochs, self.epochs) * math.ceil(
            len(job.training_sequences) / _given(job.directives.batch_size, self.batch_size)
        )

    def _plan(self, job: AdapterJob, model: Any, tokenizer: Any) -> _Plan:
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or self.max_length
        limit = min(self.max_length, window)
        whole = [self._encode(sequence, tokenizer) for sequence in job.training_sequences]
        # A sequence without a target (empty, or cut within its prompt) would make a step that learns nothing.
        sequences = [(tokens[:limit], prompt) for tokens, prompt in whole if min(len(tokens), limit) > max(1, prompt)]
        epochs = _given(job.directives.epochs, self.epochs)
        batch_size = _given(job.directives.batch_size, self.batch_size)
        batches: list[list[int]] = []
        shuffle = random.Random(job.seed)
        for _ in range(epochs):
            order = list(range(len(sequences)))
            shuffle.shuffle(order)
            batches += [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        peak = _given(job.directives.learning_rate, self.learning_rate)
        schedule: Schedule = _given(job.directives.schedule, self.schedule)
        stats = JobStats(
            steps=len(batches),
            trained_tokens=epochs * sum(len(tokens) for tokens, _ in sequences),
            truncated=sum(len(tokens) > limit for tokens, _ in whole),
            skipped=len(whole) - len(sequences),
        )
        rates = [peak * learning_rate_factor(schedule, step, len(batches)) for step in range(len(batches))]
        return _Plan(sequences, batches, rates, len(batches) // epochs, stats)

    def _encode(self, sequence: TrainingSequence, tokenizer: Any) -> tuple[list[int], int]:
        prompt = tokenizer(sequence.prompt)["input_ids"] if sequence.prompt else []
        text = tokenizer(sequence.text, add_special_tokens=not prompt)["input_ids"]
        end = [tokenizer.eos_token_id] if self.append_eos and tokenizer.eos_token_id is not None else []
        return [*prompt, *text, *end], len(prompt)


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Share of the peak at `step` (from 0) of `steps`, as transformers' schedules without warm-up."""
    match schedule:
        case "linear":
            return 1.0 - step / steps
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / steps))
        case "constant":
            return 1.0


def _given(directive: _Value | None, setting: _Value) -> _Value:
    return setting if directive is None else directive


def _backward(bank: AdapterBank, batch: PackedBatch, losses: torch.Tensor) -> None:
    """Add the gradients of one forward pass to the bank's, and its loss to `losses`, (slots,)."""
    if is_flash_attention_requested(bank.model.config):
        batch = in_one_row(batch)
    with bank.routing(batch.slots):
        logits = bank.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    chosen = logits.flatten(0, 1)[batch.positions].float()  # (S, V)
    with torch.autocast(chosen.device.type, enabled=False):  # as torch advises, autocast covers the forward pass alone
        shares = functional.cross_entropy(chosen, batch.targets, reduction="none") * batch.weights
        shares.sum().backward()
    losses.index_add_(0, batch.slots.flatten()[batch.positions], shares.detach())


def in_one_row(batch: PackedBatch) -> PackedBatch:
    """All rows end to end: transformers' flash attention tells packed sequences apart only in a batch of one row."""
    rows = {name: getattr(batch, name).view(1, -1) for name in ("input_ids", "position_ids", "slots")}
    return replace(batch, **rows)


def _minibatch(plan: _Plan, slot: int, step: int) -> list[PackedSequence]:
    """The sequences of one adapter's step; together their targets weigh 1."""
    chosen = [plan.sequences[index] for index in plan.batches[step]]
    targets = sum(len(tokens) - max(1, prompt) for tokens, prompt in chosen)
    return [PackedSequence(slot=slot, tokens=tokens, prompt=prompt, weight=1.0 / targets) for tokens, prompt in chosen]
