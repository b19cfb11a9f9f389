"""Units of work in the training processes themselves, and the seam for whatever else finishes them.

Each rank takes the next unit as it becomes free; on a GPU several, which it finishes as one piece of work.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seal_lightning.e_step.filling import units_that_fill
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import NoMemoryError, RetryableError, SealError, check_count
from seal_lightning.hooks import RunModule, RunTrainer, notify
from seal_lightning.policy.at_work import policy_at_work
from seal_lightning.processes.ranks import UnitQueue, one_line
from seal_lightning.progress.clock import Interrupted, Progress, interruptible
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context, Rollout

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnitWork:
    """The units of one phase (train, validation or test) of one round, and what is done with each."""

    trainer: RunTrainer
    module: RunModule  # whose policy rolls out
    phase: str  # for callbacks
    e_step: EStep  # another one samples in evaluation where the edits of training come from outside
    round: int  # counted from 0
    units: Sequence[Sequence[Context]]  # all units of the phase; a number stands for one of them

    def ids(self, unit: int) -> list[str]:
        """The ids of a unit's contexts."""
        return [context.id for context in self.units[unit]]


class Executor(Remembers, ABC):
    """Finishes units of work, in any order and wherever it likes."""

    def begin(self, trainer: RunTrainer, module: RunModule, *, units: int) -> None:
        """The module has its policy, and nothing is computed yet.

        Args:
            trainer: The trainer.
            module: The module, with its policy.
            units: The most units that a phase of the run has.
        """

    @abstractmethod
    def run(self, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield (unit, rollouts) for every unit that this process finishes; end when all of the queue are finished.

        The caller writes what was yielded to the journal and tells the queue before it asks for more. All ranks run
        this at the same time, each with its own instance.

        Raises:
            Stopped: From the queue, when a signal asked the run to stop.
            UnitError: From the queue, when a unit has failed for good.
        """

    def close(self) -> None:
        """The run is over: give back what was started for it."""


class LocalExecutor(Executor):
    """The E-step on the trainer's own policy. A unit that fails on one rank is tried once more on another.

    Args:
        units_at_a_time: Units that a rank samples, trains and asks together; null is one on a CPU, and on a GPU as many
            as fill it. With fewer, less is lost where the run is killed.
    """

    units_at_a_time: int | None = None

    def __init__(self, *, units_at_a_time: int | None = None) -> None:
        if units_at_a_time is not None:
            self.units_at_a_time = check_count("trainer.executor.units_at_a_time", units_at_a_time)

    def run(self, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        if queue.units:
            work.module.policy.open_replica()
        most = self._most(work, queue)
        while units := queue.take_some(most):
            yield from self._finished(work, units, queue)
        work.module.policy.close_replica()

    def _most(self, work: UnitWork, queue: UnitQueue) -> int:
        if self.units_at_a_time is not None or not queue.units:
            return self.units_at_a_time or 1
        with policy_at_work(work.trainer, work.module) as policy:
            return units_that_fill(work.e_step, policy, [work.units[unit] for unit in queue.units])

    def unit(self, work: UnitWork, unit: int, queue: UnitQueue) -> list[Rollout] | None:
        """Do a unit; None where that was broken off or has failed, and the queue says what is next.

        Raises:
            SealError: The configuration or the data are wrong: no other rank would do better.
            UnitError: The unit has failed, and there is no other rank.
        """
        try:
            return self._roll_out(work, [unit], queue)[0]
        except Interrupted:
            queue.put_back(unit)
        except Exception as error:
            if isinstance(error, SealError) and not isinstance(error, RetryableError):
                raise
            queue.fail(unit, error, contexts=work.ids(unit))
        return None

    def _finished(self, work: UnitWork, units: Sequence[int], queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        """Those of the units that can be finished here: together, else in halves, so that one at fault fails alone."""
        if len(units) == 1:
            if (rollouts := self.unit(work, units[0], queue)) is not None:
                yield units[0], rollouts
            return
        try:
            done = self._roll_out(work, units, queue)
        except Interrupted:
            queue.put_back(*units)  # and on to the queue, which stops all ranks
            return
        except Exception as error:
            if isinstance(error, SealError) and not isinstance(error, RetryableError | NoMemoryError):
                raise
            log.warning("%d units failed together (%s): in halves", len(units), one_line(error))
        else:
            yield from zip(units, done, strict=True)
            return
        half = len(units) // 2
        for some in (units[:half], units[half:]):
            if queue.stopping() or queue.failed():
                queue.put_back(*some)
            else:
                yield from self._finished(work, some, queue)

    def _roll_out(self, work: UnitWork, units: Sequence[int], queue: UnitQueue) -> list[list[Rollout]]:
        profiler = work.trainer.profiler  # type: ignore[attr-defined]

        def report(progress: Progress) -> None:
            if progress.event == "end":
                profiler.stop(f"[SEAL]{progress.phase}")
            notify(work.trainer, work.module, "on_unit_progress", phase=work.phase, progress=progress)
            if progress.event == "begin":  # last: who raises above begins nothing
                profiler.start(f"[SEAL]{progress.phase}")

        with policy_at_work(work.trainer, work.module) as policy:
            told = interruptible(report, stopping=queue.stopping)
            contexts = [work.units[unit] for unit in units]
            return work.e_step.run_together(policy, contexts, round=work.round, report=told)
