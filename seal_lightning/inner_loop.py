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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from seal_lightning.adapters import AdapterBank, save_adapter
from seal_lightning.errors import ConfigError
from seal_lightning.packing import PackedSequence, pack
from seal_lightning.types import AdapterJob, Schedule, TrainingSequence


@dataclass(frozen=True, slots=True)
class JobStats:
    """What training one adapter came to: optimizer steps, tokens trained on (all epochs), sequences cut to size."""

    steps: int
    trained_tokens: int
    truncated: int


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
        gradient_clip: Largest norm of an adapter's gradient; 0 for none.
        weight_decay: Of AdamW.
        max_length: Longest training sequence in tokens; longer ones lose their end.
        append_eos: End each training sequence with the EOS token.
        max_adapters: Adapters trained together.
        max_tokens: Tokens of one forward pass; a step of all adapters is split to stay below.
    """

    rank: int = 32
    alpha: float = 64.0
    target_modules: str | list[str] = "default"
    learning_rate: float = 1e-3
    schedule: Schedule = "linear"
    epochs: int = 10
    batch_size: int = 1
    gradient_clip: float = 1.0
    weight_decay: float = 0.0
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
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigError(f"model.inner_loop.learning_rate must be above 0, got {self.learning_rate}")
        for name in ("gradient_clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.inner_loop.{name} must be 0 or more, got {getattr(self, name)}")

    def total_steps(self, jobs: Sequence[AdapterJob]) -> int:
        """Optimizer steps of all jobs together, for progress."""
        return sum(self._steps(job) for job in jobs)

    def adapt(
        self,
        model: Any,
        tokenizer: Any,
        jobs: Sequence[AdapterJob],
        *,
        on_step: Callable[[int], None] = lambda steps: None,
    ) -> TrainedBank:
        """Train one adapter for each job.

        Args:
            model: Frozen causal language model in evaluation mode.
            tokenizer: Its tokenizer, with a pad token.
            jobs: At most `max_adapters`, each with at least one training sequence.
            on_step: Told how many optimizer steps were made since the last call.

        Returns:
            The bank; job i is what `answering` and `save` call i.
        """
        plans = [self._plan(job, model, tokenizer) for job in jobs]
        # Slots in order of falling length: the adapters that still train are then always the first ones.
        order = sorted(range(len(jobs)), key=lambda job: (-plans[job].stats.steps, job))
        bank = AdapterBank(
            model,
            slots=len(jobs),
            rank=self.rank,
            alpha=self.alpha,
            target_modules=self.target_modules,
            weight_decay=self.weight_decay,
        )
        for slot, job in enumerate(order):
            bank.reset(slot, seed=jobs[job].seed)
        padding = self._train(bank, [plans[job] for job in order], tokenizer.pad_token_id, on_step)
        slots = {job: slot for slot, job in enumerate(order)}
        return TrainedBank(
            bank, tuple(slots[job] for job in range(len(jobs))), tuple(plan.stats for plan in plans), padding
        )

    def _train(
        self, bank: AdapterBank, plans: Sequence[_Plan], pad_token: int, on_step: Callable[[int], None]
    ) -> float:
        padded = total = 0
        with torch.enable_grad(), bank.attached():
            for step in range(plans[0].stats.steps):
                active = [plan for plan in plans if plan.stats.steps > step]
                for part in self._parts([s for slot, plan in enumerate(active) for s in _minibatch(plan, slot, step)]):
                    batch = pack(part, pad_token=pad_token).to(bank.parameters.device)
                    padded, total = padded + batch.padding, total + batch.slots.numel()
                    with bank.routing(batch.slots):
                        logits = bank.model(
                            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
                        ).logits
                    chosen = logits.flatten(0, 1)[batch.positions].float()  # (S, V)
                    losses = functional.cross_entropy(chosen, batch.targets, reduction="none")
                    (losses * batch.weights).sum().backward()
                rates = torch.tensor([plan.rates[step] for plan in active])
                bank.step(rates, max_norm=self.gradient_clip or None)
                on_step(len(active))
        return padded / total if total else 0.0

    def _parts(self, sequences: Sequence[PackedSequence]) -> list[list[PackedSequence]]:
        """Cut a step into forward passes of at most `max_tokens` (or one sequence)."""
        parts: list[list[PackedSequence]] = [[]]
        size = 0
        for sequence in sequences:
            if parts[-1] and size + len(sequence.tokens) > self.max_tokens:
                parts.append([])
                size = 0
            parts[-1].append(sequence)
            size += len(sequence.tokens)
        return parts

    def _steps(self, job: AdapterJob) -> int:
        epochs = job.directives.epochs or self.epochs
        return epochs * math.ceil(len(job.training_sequences) / (job.directives.batch_size or self.batch_size))

    def _plan(self, job: AdapterJob, model: Any, tokenizer: Any) -> _Plan:
        window = getattr(model.config, "max_position_embeddings", None) or self.max_length
        limit = min(self.max_length, window)
        whole = [self._encode(sequence, tokenizer) for sequence in job.training_sequences]
        sequences = [(tokens[:limit], prompt) for tokens, prompt in whole]
        batch_size = job.directives.batch_size or self.batch_size
        batches: list[list[int]] = []
        shuffle = random.Random(job.seed)
        epochs = job.directives.epochs or self.epochs
        for _ in range(epochs):
            order = list(range(len(sequences)))
            shuffle.shuffle(order)
            batches += [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        peak = job.directives.learning_rate or self.learning_rate
        schedule = job.directives.schedule or self.schedule
        stats = JobStats(
            steps=len(batches),
            trained_tokens=epochs * sum(len(tokens) for tokens, _ in sequences),
            truncated=sum(len(tokens) > limit for tokens, _ in whole),
        )
        rates = [peak * learning_rate_factor(schedule, step, len(batches)) for step in range(len(batches))]
        return _Plan(sequences, batches, rates, stats)

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
        case _:
            return 1.0


def _minibatch(plan: _Plan, slot: int, step: int) -> list[PackedSequence]:
    """The sequences of one adapter's step; together their targets weigh 1."""
    chosen = [plan.sequences[index] for index in plan.batches[step]]
    targets = sum(len(tokens) - max(1, min(prompt, len(tokens))) for tokens, prompt in chosen)
    return [
        PackedSequence(slot=slot, tokens=tokens, prompt=min(prompt, len(tokens)), weight=1.0 / max(1, targets))
        for tokens, prompt in chosen
    ]
