"""SEAL's inner loop: train one temporary LoRA for each self-edit, many at once (arXiv 2506.10943, section 3.2).

Every adapter follows its own plan: its own data order, batch size, epochs, learning rate and schedule, set here and
overridden by its edit's directives; `slots.py` carries them out. The loop leaves out dropout, warm-up and gradient
accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, get_args

import torch
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, NoMemoryError
from seal_lightning.inner_loop.bank import AdapterBank, bank_lora
from seal_lightning.inner_loop.capacity import PASS_ON_CPU, Capacity, result_dtype
from seal_lightning.inner_loop.encoding import encode_sequence
from seal_lightning.inner_loop.objectives import ObjectiveOption, needs_source, weighted
from seal_lightning.inner_loop.plans import AdapterPlan, Encoded, JobStats, Objectives, shuffled_batches, trained_layers
from seal_lightning.inner_loop.slots import AdapterState, BankTraining, Regulariser
from seal_lightning.models.finite import rows_finite
from seal_lightning.models.layers import find_targets, parameters_of
from seal_lightning.models.lora import carried, save_lora, stack
from seal_lightning.models.memory import attempt
from seal_lightning.models.schedule import learning_rate_factor
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks.layer_choice import read_choice
from seal_lightning.types import AdapterJob, Prompt, Schedule, TrainingSequence

NO_SOURCE = (
    "its teacher reads a source before each training sequence, and this task gives none: use sft, or a task that sets "
    "TrainingSequence.source, as knowledge does"
)

_Value = TypeVar("_Value")


class AdaptersInUse:
    """The adapters at work on a batch; `keep` when rows leave it."""

    def __init__(self, bank: AdapterBank, slots: Sequence[int]) -> None:
        self.bank = bank
        self.slots = list(slots)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on, in this order."""
        self.slots = [self.slots[row] for row in rows]
        self.bank.route(torch.tensor(self.slots))


@dataclass(frozen=True, slots=True)
class TrainedBank:
    """The adapters of some jobs after training; job i is in slot i.

    Attributes:
        bank: Holds them, ready to answer.
        stats: What the training of each came to; an adapter that `diverged` changes nothing here.
        states: Where each stands, to continue from, if `adapt` was to stop `until` a step; None if nothing was trained.
    """

    bank: AdapterBank
    stats: tuple[JobStats, ...]
    states: tuple[AdapterState | None, ...] = ()

    @property
    def layers(self) -> list[str]:
        """Names of the layers with adapters."""
        return list(self.bank.A)

    @contextmanager
    def answering(self, jobs: Sequence[int | None]) -> Iterator[AdaptersInUse]:
        """Run the model with the adapter of job `jobs[b]` on row b (None: without one)."""
        rows = [-1 if job is None else job for job in jobs]
        with self.bank.attached(), self.bank.routing(torch.tensor(rows)):
            yield AdaptersInUse(self.bank, rows)

    def save(self, job: int, folder: str | Path) -> None:
        """Write the adapter of one job as a PEFT folder, with the one that the model was loaded with."""
        lora, before = bank_lora(self.bank, job), carried(self.bank.model)
        save_lora(stack([before, lora]) if before else lora, folder, model=self.bank.model)


@dataclass(frozen=True)
class InnerLoop:
    """Settings of the inner loop; the defaults are the paper's for knowledge incorporation.

    Args:
        objective: What the adapters are trained towards: `sft`, the next token, as in the paper; `distill`, what the
            frozen model says with the edit's source, the passage, in its context; weights of both such as
            `{sft: 0.5, distill: 1}`; or an `InnerObjective`.
        rank: Rank of each LoRA.
        alpha: Scale of each LoRA; its output is multiplied by alpha / rank.
        target_modules: `default` (peft's choice, for Llama and Qwen the q and v projections as in the paper),
            `all-linear`, or names of layers.
        layers: Those of them that are trained, as a directive names them: `0-3`, `first half`, `attention`, `q_proj`.
            Null trains all.
        learning_rate: Peak learning rate of AdamW.
        schedule: `linear` and `cosine` fall to 0 at the last step.
        epochs: Passes over an edit's training sequences.
        batch_size: Sequences per step.
        gradient_clip: Largest norm of an adapter's gradient; 0 or null for none.
        weight_decay: Weight decay of AdamW.
        betas: Decay rates of AdamW's moments.
        max_length: Longest training sequence in tokens; longer ones lose their end.
        append_eos: End each training sequence with the EOS token.
        max_adapters: Adapters trained at the same time, the slots of the bank; null takes what fits in the free memory
            (two fifths of it on a CPU), at most 16 on a CPU and 256 on a GPU. Halved if memory does not suffice.
        max_tokens: Tokens of one forward pass; a step of all adapters is split to stay below, and only a single longer
            sequence goes over. Null is 4,096 on a CPU, and on a GPU from 1,024 to 16,384, as fit in two fifths of the
            free memory. Halved if memory does not suffice.
        pad_to: Pad every training sequence to this length with the EOS token and train on the padding too, as the
            official code does (with 2048): to reproduce its numbers, never otherwise.
    """

    objective: ObjectiveOption = "sft"
    rank: int = 32
    alpha: float = 64.0
    target_modules: str | list[str] | None = "default"
    layers: str | None = None
    learning_rate: float = 1e-3
    schedule: Schedule = "linear"
    epochs: int = 10
    batch_size: int = 1
    gradient_clip: float | None = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_length: int = 2048
    append_eos: bool = True
    max_adapters: int | None = None
    max_tokens: int | None = None
    pad_to: int | None = None

    def __post_init__(self) -> None:
        least = dict.fromkeys(("rank", "epochs", "batch_size", "max_adapters", "max_tokens", "pad_to"), 1)
        for name, bound in {**least, "max_length": 2}.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise ConfigError(f"model.inner_loop.{name} must be at least {bound}, got {getattr(self, name)}")
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
        if self.layers is not None and read_choice(self.layers) is None:
            raise ConfigError(f"model.inner_loop.layers must name layers, got {self.layers!r}: try 0-3 or attention")
        self.objectives  # noqa: B018 - refused now, if at all

    @cached_property
    def objectives(self) -> Objectives:
        """What adapters are trained towards where no directive says otherwise, with weights."""
        return weighted(self.objective, where="model.inner_loop.objective")

    def check_sources(self, sequences: Sequence[TrainingSequence]) -> None:
        """Raise `ConfigError` where a teacher would have nothing to read before these."""
        if needs_source(self.objectives) and any(sequence.source is None for sequence in sequences):
            raise ConfigError(f"model.inner_loop.objective: {NO_SOURCE}")

    @torch.no_grad()
    def is_sound(self, policy: Policy, trained: TrainedBank, job: int, learnt: AdapterJob) -> bool:
        """Whether an adapter that is to be kept is finite, and gives finite logits for its first training sequence."""
        if trained.stats[job].diverged:
            return False
        sequences = self.plan(policy, learnt).sequences
        if not sequences:
            return True
        ids = torch.tensor([sequences[0].tokens], device=trained.bank.device)
        with trained.answering([job]):
            return bool(rows_finite(policy.model(input_ids=ids, use_cache=False).logits[0]).all())

    @torch.no_grad()
    def losses(self, policy: Policy, trained: TrainedBank, job: int, learnt: AdapterJob) -> tuple[float, float] | None:
        """Mean loss per token of an adapter's training text, without and with it; None if there is none."""
        plan = self.plan(policy, learnt)
        before = plan.loss_under(policy.model)
        with trained.answering([job]):
            after = plan.loss_under(policy.model)
        return None if before is None or after is None else (before, after)

    def total_steps(self, jobs: Sequence[AdapterJob]) -> int:
        """Optimizer steps of all jobs together, for progress; fewer are made if sequences have to be skipped."""
        return sum(
            _given(job.directives.epochs, self.epochs)
            * math.ceil(len(job.training_sequences) / _given(job.directives.batch_size, self.batch_size))
            for job in jobs
        )

    def trained_tokens(self, policy: Policy, job: AdapterJob) -> int:
        """Tokens that training one adapter takes, over all epochs: its cost."""
        return self.plan(policy, job).stats.trained_tokens

    def longest(self, policy: Policy, job: AdapterJob) -> int:
        """Tokens of a job's longest training sequence, before it is cut."""
        return max((len(self._encode(policy, sequence).tokens) for sequence in job.training_sequences), default=0)

    def adapt(
        self,
        policy: Policy,
        jobs: Sequence[AdapterJob],
        *,
        on_step: Callable[[int], None] = lambda count: None,
        start: Sequence[AdapterState | None] = (),
        until: Sequence[int] | None = None,
        regulariser: Regulariser | None = None,
    ) -> TrainedBank:
        """Train one adapter for each job, however many; jobs that wait take the slots of those that are finished.

        A training that is stopped and continued ends where an uninterrupted one does: on a CPU bit for bit among the
        same adapters, and to float tolerance among others; on a GPU to float tolerance in any case.

        Args:
            policy: Frozen, and its model in evaluation mode.
            jobs: Adapters to train; one without training sequences stays as it was drawn and changes nothing.
            on_step: Called with the number of optimizer steps made since the last call.
            start: The `states` of an earlier call to continue from, one for each job, with the same largest rank of the
                jobs; empty to begin anew.
            until: Number of optimizer steps after which each job stops, if it has that many.
            regulariser: Takes part in every step of all jobs.

        Returns:
            The bank; job i is what `answering` and `save` call i.

        Raises:
            ConfigError: `target_modules` does not fit the model.
            NoMemoryError: All adapters together do not fit, or not even one at work with one sequence at a time.
        """
        model = policy.model
        assert not model.training, "the policy has to be in evaluation mode: dropout would differ from row to row"
        plans = [self.plan(policy, job) for job in jobs]
        slots, max_tokens = self.slots(model), self.pass_tokens(model)  # before the results take their share
        trained, reason = attempt(lambda: self._bank(model, jobs, slots=len(jobs), trainable=False))
        if trained is None:
            raise NoMemoryError(
                f"there is no memory for the adapters of {len(jobs)} self-edits ({reason}): lower model.inner_loop.rank"
            )
        stats: Sequence[JobStats] = ()
        states: Sequence[AdapterState | None] = ()
        if jobs:
            training = BankTraining(
                model,
                plans,
                make_bank=lambda slots: self._bank(model, jobs, slots=slots, trainable=True),
                slots=min(len(jobs), slots),
                max_tokens=max_tokens,
                max_norm=self.gradient_clip or None,
                on_step=on_step,
                start=start,
                until=until,
                regulariser=regulariser,
            )
            stats, states = training.run(trained)
        return TrainedBank(trained, tuple(stats), tuple(states))

    def _bank(self, model: PreTrainedModel, jobs: Sequence[AdapterJob], *, slots: int, trainable: bool) -> AdapterBank:
        return AdapterBank(
            model,
            slots=slots,
            rank=max((_given(job.rank, self.rank) for job in jobs), default=self.rank),
            alpha=self.alpha,
            target_modules=self.target_modules,
            betas=self.betas,
            weight_decay=self.weight_decay,
            trainable=trainable,
            dtype=torch.float32 if trainable else result_dtype(model),
        )

    def slots(self, model: PreTrainedModel) -> int:
        """How many adapters train at the same time on the model's device."""
        return self.max_adapters or self._capacity(model).slots(tokens=self.pass_tokens(model))

    def results(self, model: PreTrainedModel) -> int:
        """How many finished adapters there is room for on the model's device, beside those that train."""
        return self._capacity(model).results(self.slots(model), tokens=self.pass_tokens(model))

    def pass_tokens(self, model: PreTrainedModel) -> int:
        """Tokens of a forward pass on the model's device."""
        on_cpu = model.device.type == "cpu"
        return self.max_tokens or (PASS_ON_CPU if on_cpu else self._capacity(model).pass_tokens())

    def _capacity(self, model: PreTrainedModel) -> Capacity:
        return Capacity.of(model, parameters=parameters_of(find_targets(model, self.target_modules), self.rank))

    def plan(self, policy: Policy, job: AdapterJob) -> AdapterPlan:
        """The training of one job: its tokens, their order and the learning rates."""
        asked = job.directives.objective
        objectives = self.objectives if asked is None else weighted(asked, where="objective of a directive")
        whole = [self._encode(policy, sequence) for sequence in job.training_sequences]
        if needs_source(objectives):
            known: dict[Prompt, list[int]] = {}
            both = zip(whole, job.training_sequences, strict=True)
            whole = [_with_source(policy, encoded, given, known) for encoded, given in both]
        cut = [_cut(one, longest=self.max_length, window=policy.window) for one in whole]
        # A sequence without a target (empty, or cut within its prompt) would make a step that learns nothing.
        sequences = [one for one in cut if all(start < end for start, end in (one.aim(each) for each, _ in objectives))]
        epochs = _given(job.directives.epochs, self.epochs)
        batch_size = _given(job.directives.batch_size, self.batch_size)
        batches = shuffled_batches(sequences, epochs=epochs, batch_size=batch_size, seed=job.seed)
        peak = _given(job.directives.learning_rate, self.learning_rate)
        schedule: Schedule = _given(job.directives.schedule, self.schedule)
        layers, ignored = trained_layers(policy.model, self.target_modules, self.layers, job.directives.layers)
        stats = JobStats(
            steps=len(batches),
            trained_tokens=epochs * sum(len(one.tokens) for one in sequences),
            truncated=sum(len(short.tokens) < len(one.tokens) for short, one in zip(cut, whole, strict=True)),
            skipped=len(whole) - len(sequences),
            teacher_tokens=sum(len(one.source) + len(one.told) for one in sequences if one.source),
            ignored=ignored,
        )
        return AdapterPlan(
            seed=job.seed,
            rank=_given(job.rank, self.rank),
            sequences=sequences,
            batches=batches,
            rates=[peak * learning_rate_factor(schedule, step, len(batches)) for step in range(len(batches))],
            epoch_steps=len(batches) // epochs,
            stats=stats,
            layers=layers,
            objectives=objectives,
        )

    def _encode(self, policy: Policy, sequence: TrainingSequence) -> Encoded:
        encoded = encode_sequence(policy, sequence, ended=self.append_eos)
        if self.pad_to is None or sequence.asked is not None:
            return encoded
        plain = policy.tokenizer
        fill = plain.pad_token_id if plain.eos_token_id is None else plain.eos_token_id
        return replace(encoded, tokens=[*encoded.tokens, *[fill] * (self.pad_to - len(encoded.tokens))])


def _with_source(
    policy: Policy, encoded: Encoded, sequence: TrainingSequence, known: dict[Prompt, list[int]]
) -> Encoded:
    """A sequence with what its teacher reads first; `known` are the sources that were seen before."""
    if (source := sequence.source) is None:
        raise ConfigError(f"model.inner_loop.objective: {NO_SOURCE}")
    if source not in known:
        known[source] = policy.encode(policy.format(source))
    asked = encoded.tokens[len(policy.encoder.opening) : encoded.prompt]
    first = max(1, encoded.told_from)  # of a sequence that begins without a BOS, nothing can predict the first token
    before = [*known[source], *asked, *encoded.tokens[encoded.told_from : first]]
    return replace(encoded, source=before, told_from=first)


def _cut(encoded: Encoded, *, longest: int, window: int) -> Encoded:
    """A sequence without what is too long for it, or behind its source for the model's window."""
    room = window - len(encoded.source) + encoded.told_from if encoded.source else window
    limit = max(0, min(longest, window, room))
    return replace(encoded, tokens=encoded.tokens[:limit], told_to=min(encoded.told_to, limit))


def _given(directive: _Value | None, setting: _Value) -> _Value:
    return setting if directive is None else directive
