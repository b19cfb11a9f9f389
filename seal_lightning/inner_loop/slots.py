"""Train many adapters in the slots of one bank: what each of them does, step by step, and which slot it has.

One step takes the next minibatch of every adapter in the bank; their sequences share forward passes in the fastest way
that keeps them apart on this model (`isolation/`). The loss is the sum over adapters of each one's mean token loss, so
the adapters do not influence each other. When one is finished, the
next job takes its slot. When the memory does not suffice, forward passes get smaller, then slots fewer, and nothing
that was trained is lost. An adapter whose loss, gradient or weights are not finite leaves before it can touch the
others: a pass that they share would mix nan into all of them, so that step is made again with each adapter's passes by
themselves. A training can stop before its end and go on later from where it stood. A `Regulariser` may have a say in
every step.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from seal_lightning.errors import NoMemoryError
from seal_lightning.inner_loop.bank import AdapterBank, SlotState
from seal_lightning.inner_loop.isolation import TrainingWay, training_way
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence
from seal_lightning.models.finite import all_finite
from seal_lightning.models.memory import attempt, make_room

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobStats:
    """What training one adapter came to.

    Attributes:
        steps: Optimizer steps, from the first to where it stands.
        trained_tokens: Tokens of the sequences in these steps, prompts included.
        truncated: Sequences that lost their end to the longest length.
        skipped: Sequences left out because no token of them carries loss.
        loss: Mean of the last epoch's step losses; nan where that epoch was not finished or nothing was trained.
        diverged: What was not finite, where the training ended for that; its adapter is one that changes nothing.
    """

    steps: int
    trained_tokens: int
    truncated: int
    skipped: int
    loss: float = math.nan
    diverged: str = ""


@dataclass(frozen=True, slots=True)
class AdapterState:
    """Where the training of one adapter stands, with all that it takes to go on exactly.

    Attributes:
        step: Optimizer steps made so far.
        slot: The adapter and its optimizer state, on the CPU.
        loss: Sum of the step losses of the last epoch so far.
    """

    step: int
    slot: SlotState
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """One adapter's training, fixed before it starts.

    Attributes:
        seed: Of its first weights.
        rank: Of it.
        sequences: Tokens, and how many of them are the prompt.
        batches: Numbers of sequences, step by step.
        rates: Learning rates by step.
        epoch_steps: Steps of one epoch.
        stats: Of the whole training; all but the loss.
    """

    seed: int
    rank: int
    sequences: list[tuple[list[int], int]]
    batches: list[list[int]]
    rates: list[float]
    epoch_steps: int
    stats: JobStats

    def stats_at(self, step: int, loss: float) -> JobStats:
        """What the training came to when it stands before `step`; `loss` is the sum over the last epoch."""
        tokens = sum(len(self.sequences[index][0]) for batch in self.batches[:step] for index in batch)
        finished = 0 < self.stats.steps <= step
        mean = loss / self.epoch_steps if finished else math.nan
        return replace(self.stats, steps=step, trained_tokens=tokens, loss=mean)


class Regulariser:
    """Has a say in every optimizer step; this one says nothing. It keeps no state from one step to the next."""

    def add_gradients(self, bank: AdapterBank, steps: Sequence[int]) -> None:
        """Add the gradients of a penalty to those of the first slots of the bank, before they are clipped.

        The bank is attached; a forward pass of its own takes one row of one adapter (`bank.routing`), as any model can
        be run. Called again for the same step where the memory did not suffice.

        Args:
            bank: Holds the adapters and their gradients.
            steps: Which step each slot's adapter makes, from 0.
        """

    def project(self, bank: AdapterBank, slots: Sequence[int]) -> None:
        """Change adapters in place when they have been drawn, and after each of their steps."""


@dataclass(slots=True)
class _Running:
    """A job in a slot, its next step, and the one before which it stops."""

    job: int
    plan: AdapterPlan
    stop: int
    step: int = 0
    saved: SlotState | None = None  # while it waits for its slot to come back

    @property
    def in_last_epoch(self) -> bool:
        return self.step >= self.plan.stats.steps - self.plan.epoch_steps


class BankTraining:
    """Which job is in which slot, and what is left of the memory's limits.

    Args:
        model: Frozen causal language model in evaluation mode.
        plans: One for each job.
        make_bank: Makes a bank of so many slots.
        slots: How many at first.
        max_tokens: Of one forward pass; a single longer sequence goes over.
        max_norm: Of an adapter's gradient; None for any.
        on_step: Told how many optimizer steps were made since the last call.
        start: Where each job's training stands; None for one that was not begun.
        until: Stop each job before this step; None trains all to their ends.
        regulariser: Acts on all jobs.
    """

    def __init__(
        self,
        model: Any,
        plans: Sequence[AdapterPlan],
        *,
        make_bank: Callable[[int], AdapterBank],
        slots: int,
        max_tokens: int,
        max_norm: float | None,
        on_step: Callable[[int], None],
        start: Sequence[AdapterState | None] = (),
        until: Sequence[int] | None = None,
        regulariser: Regulariser | None = None,
    ) -> None:
        self.regulariser = regulariser or Regulariser()
        self.model, self.plans, self.make_bank, self.on_step = model, plans, make_bank, on_step
        self.max_norm = max_norm
        self.states = list(start) or [None] * len(plans)
        self.pausing = until is not None
        stops = [plan.stats.steps for plan in plans]
        if until is not None:
            stops = [min(steps, stop) for steps, stop in zip(stops, until, strict=True)]
        jobs = [
            _Running(job, plan, stop, state.step, state.slot) if state else _Running(job, plan, stop)
            for job, (plan, stop, state) in enumerate(zip(plans, stops, self.states, strict=True))
        ]
        # Longest first: the short ones fill the slots that become free, and none is left to train alone at the end.
        jobs.sort(key=lambda job: (job.step - job.stop, job.job))
        self.waiting = deque(job for job in jobs if job.step < job.stop)
        self.standing = [job for job in jobs if job.step >= job.stop]
        self.bank = self._make_bank(slots)
        self.diverged: dict[int, tuple[str, int]] = {}  # by job, what was not finite, and the steps made before
        self.gathered = (torch.empty(0), torch.empty(0))  # losses and gradient norms of the running jobs
        self.running: list[_Running] = []  # by slot
        sums = [state.loss if state else 0.0 for state in self.states]  # over each job's last epoch
        self.losses = torch.tensor(sums, device=self.bank.device)
        self.head_loss = HeadLoss(model, adapted=set(self.bank.A))
        self.way = self._choose_way()
        self.max_tokens = self.way.room(model, max_tokens)

    def _choose_way(self) -> TrainingWay:
        longest = max((len(tokens) for plan in self.plans for tokens, _ in plan.sequences), default=0)
        return training_way(self.model, list(self.bank.A), longest=longest)

    def run(self, trained: AdapterBank) -> tuple[list[JobStats], list[AdapterState | None]]:
        """Train every job and put its adapter into its slot of `trained`.

        Returns:
            What every job came to, and where it stands: None for one that nothing was trained of, and for all of them
            where they went to their ends.
        """
        for job in self.standing:
            if job.saved is None:
                trained.reset(job.job, seed=job.plan.seed, rank=job.plan.rank)
            else:
                trained.fill(job.job, job.saved.parameters, rank=job.saved.rank)
        made = {job.job: job.step for job in self.standing} | {job.job: job.stop for job in self.waiting}
        with torch.enable_grad():
            while self.waiting or self.running:
                if self._within_memory(self._start):
                    self._step()
                    self._finish(trained)
        for job, (_, step) in self.diverged.items():
            trained.reset(job, seed=self.plans[job].seed, rank=self.plans[job].rank)
            made[job] = step
        losses = self.losses.tolist()
        stats = [self._stats(job, made[job], losses[job]) for job in range(len(self.plans))]
        states = [state and replace(state, loss=loss) for state, loss in zip(self.states, losses, strict=True)]
        return stats, states if self.pausing else [None] * len(states)

    def _stats(self, job: int, step: int, loss: float) -> JobStats:
        stats = self.plans[job].stats_at(step, loss)
        return replace(stats, loss=math.nan, diverged=self.diverged[job][0]) if job in self.diverged else stats

    def _start(self) -> None:
        while self.waiting and len(self.running) < len(self.bank.ranks):
            slot, job = len(self.running), self.waiting[0]
            if job.saved is not None:
                self.bank.put(slot, job.saved)
                job.saved = None
            else:
                self.bank.reset(slot, seed=job.plan.seed, rank=job.plan.rank)
                self._project([slot])
            self.running.append(self.waiting.popleft())

    def _step(self) -> None:
        """The next minibatch of every running job, and one optimizer step; only once all of it is known to be good."""
        if not self._within_memory(self._gather):
            return  # nothing was stepped: the same minibatches come again
        losses, norms = self.gathered
        if not all_finite([losses, norms]):
            if not self._within_memory(lambda: self._gather(apart=True)) or self._give_up_diverged():
                return
            losses, norms = self.gathered  # what was not finite was so in company alone
        device = self.bank.device
        last = [(slot, job.job) for slot, job in enumerate(self.running) if job.in_last_epoch]
        if last:
            slots, jobs = (torch.tensor(numbers, device=device) for numbers in zip(*last, strict=True))
            self.losses.index_add_(0, jobs, losses[slots])
        self.bank.step([job.plan.rates[job.step] for job in self.running], max_norm=self.max_norm, norms=norms)
        self._project(range(len(self.running)))
        for job in self.running:
            job.step += 1
        self.on_step(len(self.running))

    def _gather(self, *, apart: bool = False) -> None:
        """Put the gradients of every running job's next minibatch into the bank, and keep their losses and norms.

        Args:
            apart: With passes of each job's own.
        """
        self.bank.clear_gradients()
        self.bank.prepare(len(self.running))
        losses = torch.zeros(len(self.running), device=self.bank.device)
        groups = self._by_job() if apart else [[one for part in self._by_job() for one in part]]
        with self.bank.attached():
            for sequences in groups:
                for batch in self.way.passes(sequences, max_tokens=self.max_tokens):
                    batch = batch.to(self.bank.device)
                    losses.index_add_(0, batch.owners, self.way.backward(self.bank, self.head_loss, batch))
            self.regulariser.add_gradients(self.bank, [job.step for job in self.running])
        self.gathered = losses, self.bank.gradient_norms(len(self.running))

    def _give_up_diverged(self) -> bool:
        """Let those jobs leave whose own losses or gradients are not finite; False where there are none."""
        losses, norms = (values.tolist() for values in self.gathered)
        for slot in reversed(range(len(self.running))):
            if not math.isfinite(losses[slot]):
                self._give_up(slot, f"the loss is {losses[slot]:g}")
            elif not math.isfinite(norms[slot]):
                self._give_up(slot, f"the gradient's norm is {norms[slot]:g}")
        return len(self.running) < len(losses)

    def _give_up(self, slot: int, what: str) -> None:
        job = self.running[slot]
        self.diverged[job.job] = f"{what} at step {job.step + 1} of {job.plan.stats.steps}", job.step
        self.states[job.job] = None
        self._free(slot)

    @torch.no_grad()
    def _project(self, slots: Sequence[int]) -> None:
        self.regulariser.project(self.bank, slots)

    def _by_job(self) -> list[list[PackedSequence]]:
        """The sequences of each running job's next step."""
        return [_minibatch(job.plan, slot, job.step) for slot, job in enumerate(self.running)]

    # -- memory ----------------------------------------------------------------------------------------------------

    def _make_bank(self, slots: int) -> AdapterBank:
        """A bank of so many slots, or of as many as there is memory for."""
        bank, reason = attempt(lambda: self.make_bank(slots))
        if bank is not None:
            return bank
        if slots == 1:
            raise NoMemoryError(f"the inner loop has no memory for one adapter ({reason}): lower model.inner_loop.rank")
        log.warning("out of memory in the inner loop: %d adapters at a time from now on", slots // 2)
        return self._make_bank(slots // 2)

    def _within_memory(self, work: Callable[[], None]) -> bool:
        """Whether the work could be done; else there is more room now, and it has to be done again."""
        _, reason = attempt(work)
        if reason:
            self._make_room(reason)
        return not reason

    def _make_room(self, reason: str) -> None:
        """After running out of memory: smaller forward passes, and where that is not possible, half the slots."""
        make_room(self.bank.device)
        lengths = [len(sequence.tokens) for part in self._by_job() for sequence in part] or [0]
        if (tokens := min(self.max_tokens, sum(lengths))) > max(lengths):
            self.max_tokens = max(max(lengths), tokens // 2)
            log.warning(
                "out of memory in the inner loop: at most %d tokens a forward pass from now on", self.max_tokens
            )
        elif len(self.bank.ranks) > 1:
            self._halve_slots()
        else:
            raise NoMemoryError(
                f"the inner loop has no memory for one adapter of rank {self.bank.rank} and a sequence of "
                f"{max(lengths)} tokens ({reason}): lower model.inner_loop.rank or max_length"
            )

    def _halve_slots(self) -> None:
        slots = max(1, (len(self.running) or len(self.bank.ranks)) // 2)
        states, reason = attempt(lambda: self.bank.dissolve(len(self.running)))
        del self.bank
        if states is None:  # not even what the adapters have learnt fits beside them: whoever has several does fewer
            raise NoMemoryError(f"the inner loop has no memory to set {len(self.running)} adapters aside ({reason})")
        for job, state in zip(self.running, states, strict=True):
            job.saved = state
        self.waiting.extendleft(reversed(self.running))
        self.running = []
        log.warning("out of memory in the inner loop: %d adapters at a time from now on", slots)
        self.bank = self._make_bank(slots)

    def _finish(self, trained: AdapterBank) -> None:
        """Take finished jobs out of their slots."""
        for slot in reversed(range(len(self.running))):
            job = self.running[slot]
            if job.step < job.stop:
                continue
            if not all_finite([self.bank.parameters[slot]]):
                self.diverged[job.job] = f"the weights are not finite after step {job.step}", job.step
                self.states[job.job] = None
            else:
                if self.pausing:
                    self.states[job.job] = AdapterState(job.step, self.bank.take(slot))
                trained.fill(job.job, self.bank.parameters[slot], rank=self.bank.ranks[slot])
            self._free(slot)

    def _free(self, slot: int) -> None:
        """A job leaves its slot; the last running one moves there, so that slots stay without gaps."""
        last = self.running.pop()
        if slot < len(self.running):
            self.bank.move(len(self.running), slot)
            self.running[slot] = last


def _minibatch(plan: AdapterPlan, slot: int, step: int) -> list[PackedSequence]:
    """The sequences of one adapter's step; together their targets weigh 1."""
    chosen = [plan.sequences[index] for index in plan.batches[step]]
    targets = sum(len(tokens) - max(1, prompt) for tokens, prompt in chosen)
    return [PackedSequence(slot=slot, tokens=tokens, prompt=prompt, weight=1.0 / targets) for tokens, prompt in chosen]
