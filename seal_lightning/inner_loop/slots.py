"""Train many adapters in the slots of one bank: which of them is in which slot, and what one step does.

One step takes the next minibatch of every adapter in the bank. Their sequences share forward passes in the fastest way
that keeps them apart on this model (`isolation/`). The loss is the sum over adapters of each one's mean token loss, so
the adapters do not influence each other. When one is finished, the next job takes its slot.

If memory does not suffice, forward passes get smaller, then slots fewer, and nothing that was trained is lost. An
adapter whose loss, gradient or weights are not finite leaves before it can harm the others: a pass that they share
would mix nan into all of them, so that step is made again with separate passes for each adapter.

On a GPU the host does not wait for a step: it queues several, each of which changes nothing if it, or one before it, is
not finite, and then reads once how many were made.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from transformers import PreTrainedModel

from seal_lightning.errors import NoMemoryError
from seal_lightning.inner_loop.bank import AdapterBank, SlotState
from seal_lightning.inner_loop.isolation import training_way
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence
from seal_lightning.inner_loop.plans import AdapterPlan, Encoded, JobStats
from seal_lightning.inner_loop.teacher import Teacher
from seal_lightning.models.memory import attempt, make_room
from seal_lightning.models.transfer import read_numbers, sent

log = logging.getLogger(__name__)

_AHEAD = 16  # steps that a GPU is given before the host looks at them


@dataclass(frozen=True, slots=True)
class AdapterState:
    """Where the training of one adapter stands, with everything needed to continue it exactly.

    Attributes:
        step: The next step.
        slot: The adapter and its optimizer state, on the CPU.
        loss: Sum of the step losses of the last epoch so far.
    """

    step: int
    slot: SlotState
    loss: float = 0.0


class Regulariser:
    """Hook called at every optimizer step; the base class does nothing. It keeps no state between steps."""

    def add_gradients(self, bank: AdapterBank, steps: Sequence[int]) -> None:
        """Add the gradients of a penalty to those of the first slots of the bank, before they are clipped.

        The bank is attached. A forward pass made here takes one row of one adapter (`bank.routing`), which any model
        can run. If memory did not suffice, this is called again for the same step.

        Args:
            bank: Holds the adapters and their gradients.
            steps: Which step each slot's adapter makes, from 0.
        """

    def project(self, bank: AdapterBank, slots: Sequence[int]) -> None:
        """Change adapters in place after they have been drawn, and after each of their steps."""


@dataclass(slots=True)
class _Job:
    """An adapter to train, its next step, and the step before which it stops."""

    number: int
    plan: AdapterPlan
    stop: int
    step: int = 0
    saved: SlotState | None = None  # while it has no slot
    diverged: str = ""

    @property
    def in_last_epoch(self) -> bool:
        return self.step >= self.plan.stats.steps - self.plan.epoch_steps


class BankTraining:
    """Which job is in which slot, and what is left of the memory's limits.

    Args:
        model: Frozen causal language model in evaluation mode.
        plans: One for each job.
        make_bank: Makes a bank of the given number of slots.
        slots: Number of slots to begin with.
        max_tokens: Tokens of one forward pass; a single longer sequence exceeds it.
        max_norm: Largest norm of an adapter's gradient; None for any.
        on_step: With `start`, `until` and `regulariser`, the argument of `InnerLoop.adapt`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
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
        self.make_bank, self.max_norm, self.on_step = make_bank, max_norm, on_step
        self.regulariser = regulariser or Regulariser()
        self.pausing = until is not None
        states = list(start) or [None] * len(plans)
        self.jobs = [_Job(number, plan, plan.stats.steps) for number, plan in enumerate(plans)]
        for job, state, stop in zip(self.jobs, states, until or [job.stop for job in self.jobs], strict=True):
            job.stop = min(job.stop, stop)
            if state is not None:
                job.step, job.saved = state.step, state.slot
        # Longest first: the short ones fill the slots that become free, and none is left to train alone at the end.
        ordered = sorted(self.jobs, key=lambda job: (job.step - job.stop, job.number))
        self.waiting = deque(job for job in ordered if job.step < job.stop)
        self.running: list[_Job] = []  # by slot
        self.bank = self._make_bank(slots)
        # a regulariser changes adapters after each step that is made, so then none is queued
        self.ahead = _AHEAD if self.bank.device.type == "cuda" and regulariser is None else 1
        self._begin_queue()
        self.gathered = (torch.empty(0), torch.empty(0))  # losses and gradient norms of the running jobs
        sums = [state.loss if state else 0.0 for state in states]  # over each job's last epoch
        self.losses = torch.tensor(sums, device=self.bank.device)
        self.head_loss = HeadLoss(model, adapted=set(self.bank.A))
        longest = max((one.longest for plan in plans for one in plan.sequences), default=0)
        self.way = training_way(model, list(self.bank.A), longest=longest)
        self.max_tokens = self.way.room(model, max_tokens)
        self.teacher = Teacher(model, self.head_loss, self.way)

    def run(self, trained: AdapterBank) -> tuple[list[JobStats], list[AdapterState | None]]:
        """Train every job and put its adapter into its slot of `trained`.

        Returns:
            What every job came to, and where it stands if the training was to stop `until` a step; None for a job that
            was not trained at all.
        """
        self._put_back(trained, [job for job in self.jobs if job.step >= job.stop])
        apart = False
        with torch.enable_grad():
            while self.waiting or self.running:
                if not (self._within_memory(self._fill_slots) and self._within_memory(partial(self._gather, apart))):
                    continue  # the same minibatches come again, and there is more room now
                if apart and self._give_up_diverged():
                    apart = False
                    continue
                rates = [job.plan.rates[job.step] for job in self.running]
                self.bank.step(rates, max_norm=self.max_norm, norms=self.gathered[1], sound=self._all_sound())
                self._end_step()
                if self._must_settle():
                    apart = not self._settle()  # with passes of their own, only the jobs that diverged leave
                    if not apart:  # with a regulariser that is after each step; otherwise there is nothing to project
                        self._project(range(len(self.running)))
                    self._release(trained)
        self._put_back(trained, [job for job in self.jobs if job.diverged])
        return self._outcome()

    def _put_back(self, trained: AdapterBank, jobs: Sequence[_Job]) -> None:
        """Put adapters that are not to be trained, or no further, where the others go."""
        for job in jobs:
            if job.saved is None:
                trained.reset(job.number, seed=job.plan.seed, rank=job.plan.rank, layers=job.plan.layers)
            else:
                trained.fill(job.number, job.saved.parameters, rank=job.saved.rank)

    def _fill_slots(self) -> None:
        while self.waiting and len(self.running) < len(self.bank.ranks):
            slot, job = len(self.running), self.waiting[0]
            if job.saved is not None:
                self.bank.put(slot, job.saved)
                job.saved = None
            else:
                self.bank.reset(slot, seed=job.plan.seed, rank=job.plan.rank, layers=job.plan.layers)
                self._project([slot])
            self.running.append(self.waiting.popleft())

    def _minibatches(self) -> list[list[Encoded]]:
        """The sequences of each running job's next step."""
        return [job.plan.minibatch(job.step) for job in self.running]

    def _ask_teacher(self) -> None:
        """Ask the teacher, where there is one, about what the running jobs train on."""
        taught = [job for job in self.running if job.plan.has_teacher]
        if not taught:
            return
        needed = (job.plan.sequences if self.teacher.keeps else job.plan.minibatch(job.step) for job in taught)
        jobs = [job.number for job in taught]
        self.teacher.prepare(chain.from_iterable(needed), jobs=jobs, max_tokens=self.max_tokens)

    def _packed(self) -> list[list[PackedSequence]]:
        """The sequences of each running job's next step, as the bank trains on them."""
        return [
            job.plan.packed(job.plan.minibatch(job.step), slot=slot, said=self.teacher.about)
            for slot, job in enumerate(self.running)
        ]

    def _gather(self, apart: bool) -> None:
        """Put the gradients of every running job's next minibatch into the bank, and keep their losses and norms.

        With `apart`, each job gets passes of its own.
        """
        self.bank.clear_gradients()
        self.bank.prepare(len(self.running))
        losses = torch.zeros(len(self.running), device=self.bank.device)
        self._ask_teacher()
        by_job = self._packed()
        groups = by_job if apart else [[sequence for sequences in by_job for sequence in sequences]]
        with self.bank.attached():
            for sequences in groups:
                for batch in self.way.passes(sequences, max_tokens=self.max_tokens):
                    batch = batch.to(self.bank.device)
                    losses.index_add_(0, batch.owners, self.way.backward(self.bank, self.head_loss, batch))
            self.regulariser.add_gradients(self.bank, [job.step for job in self.running])
        self.gathered = losses, self.bank.gradient_norms(len(self.running))

    @torch.no_grad()
    def _project(self, slots: Sequence[int]) -> None:
        self.regulariser.project(self.bank, slots)

    @torch.no_grad()
    def _all_sound(self) -> torch.Tensor:
        """Whether all numbers of this step and of those before are finite, bool () on the device; counts its losses."""
        losses, norms = self.gathered
        self.sound = self.sound & losses.isfinite().all() & norms.isfinite().all()
        self.made = self.made + self.sound
        if last := [(slot, job.number) for slot, job in enumerate(self.running) if job.in_last_epoch]:
            index = sent(torch.tensor(last), losses.device)
            counted = torch.where(self.sound, losses.index_select(0, index[:, 0]), 0.0)
            self.losses.index_add_(0, index[:, 1], counted)
        return self.sound

    def _end_step(self) -> None:
        for job in self.running:
            job.step += 1
        self.queued += 1

    def _must_settle(self) -> bool:
        """Whether the steps that are queued have to be looked at: a job may be finished, or there are many."""
        return self.queued >= self.ahead or any(job.step >= job.stop for job in self.running)

    def _settle(self) -> bool:
        """Read how many of the queued steps were made; jobs go back to the first that was not. Whether all were."""
        made = read_numbers(self.made)[0] if self.queued else 0
        lost = self.queued - int(made)
        for job in self.running:
            job.step -= lost
        if made:
            self.on_step(int(made) * len(self.running))
        self._begin_queue()
        return not lost

    def _begin_queue(self) -> None:
        self.queued = 0
        self.sound = torch.ones((), dtype=torch.bool, device=self.bank.device)
        self.made = torch.zeros((), device=self.bank.device)

    def _release(self, trained: AdapterBank) -> None:
        """Take finished jobs out of their slots."""
        finished = [slot for slot, job in enumerate(self.running) if job.step >= job.stop]
        if not finished:
            return
        sound = read_numbers(torch.stack([_is_finite(self.bank.parameters[slot]) for slot in finished]))
        for slot, finite in reversed(list(zip(finished, sound, strict=True))):
            job = self.running[slot]
            if not finite:
                job.diverged = f"the weights are not finite after step {job.step}"
            else:
                job.saved = self.bank.take(slot) if self.pausing else None
                trained.fill(job.number, self.bank.parameters[slot], rank=self.bank.ranks[slot])
            self._free(slot)

    def _give_up_diverged(self) -> bool:
        """Remove the jobs whose own losses or gradients are not finite; False if there are none."""
        losses, norms = (read_numbers(values) for values in self.gathered)
        for slot in reversed(range(len(self.running))):
            job = self.running[slot]
            if not math.isfinite(losses[slot]):
                what = f"the loss is {losses[slot]:g}"
            elif not math.isfinite(norms[slot]):
                what = f"the gradient's norm is {norms[slot]:g}"
            else:
                continue
            job.diverged = f"{what} at step {job.step + 1} of {job.plan.stats.steps}"
            self._free(slot)
        return len(self.running) < len(losses)

    def _free(self, slot: int) -> None:
        """A job leaves its slot; the last running one moves there, so that slots stay without gaps."""
        last = self.running.pop()
        if slot < len(self.running):
            self.bank.move(len(self.running), slot)
            self.running[slot] = last

    def _outcome(self) -> tuple[list[JobStats], list[AdapterState | None]]:
        jobs = list(zip(self.jobs, read_numbers(self.losses), strict=True))
        stats = [job.plan.stats_at(job.step, loss, job.diverged) for job, loss in jobs]
        return stats, [AdapterState(job.step, job.saved, loss) if job.saved else None for job, loss in jobs]

    def _make_bank(self, slots: int) -> AdapterBank:
        """A bank of that many slots with their moments, or of as many as there is memory for."""

        def made() -> AdapterBank:
            bank = self.make_bank(slots)
            bank.prepare(slots)  # a step that found no room for them would first make its passes smaller
            return bank

        bank, reason = attempt(made)
        if bank is not None:
            return bank
        if slots == 1:
            raise NoMemoryError(f"the inner loop has no memory for one adapter ({reason}): lower model.inner_loop.rank")
        log.warning("out of memory in the inner loop: %d adapters at a time from now on", slots // 2)
        return self._make_bank(slots // 2)

    def _within_memory(self, work: Callable[[], None]) -> bool:
        """Whether the work could be done; if not, there is more room now, and it has to be done again."""
        _, reason = attempt(work)
        if reason:
            self._settle()  # what was queued may not have been made: then it comes again
            self._make_room(reason)
        return not reason

    def _make_room(self, reason: str) -> None:
        """After running out of memory: make forward passes smaller, or if that is not possible, halve the slots."""
        make_room(self.bank.device)
        lengths = [one.longest for sequences in self._minibatches() for one in sequences] or [0]
        if (tokens := min(self.max_tokens, sum(lengths))) > max(lengths):
            self.max_tokens = max(max(lengths), tokens // 2)
            message = "out of memory in the inner loop: at most %d tokens a forward pass from now on"
            log.warning(message, self.max_tokens)
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
        if states is None:  # no memory even for a copy of the adapters beside them: the caller halves the jobs
            raise NoMemoryError(f"the inner loop has no memory to set {len(self.running)} adapters aside ({reason})")
        for job, state in zip(self.running, states, strict=True):
            job.saved = state
        self.waiting.extendleft(reversed(self.running))
        self.running = []
        log.warning("out of memory in the inner loop: %d adapters at a time from now on", slots)
        self.bank = self._make_bank(slots)


def _is_finite(row: torch.Tensor) -> torch.Tensor:
    """Whether all numbers are finite, without a copy of them: memory may be short here, outside of any second try."""
    lowest, highest = row.aminmax()  # nan if there is one
    return lowest.isfinite() & highest.isfinite()
