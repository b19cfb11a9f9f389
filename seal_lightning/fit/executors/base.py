"""The seam between the loops, which want units of work finished, and whatever finishes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

from seal_lightning.e_step.step import EStep
from seal_lightning.processes.ranks import UnitQueue
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context, Rollout


@dataclass(frozen=True, slots=True)
class UnitWork:
    """The units of one phase (train, validation or test) of one round, and what is done with each.

    Attributes:
        trainer: The trainer.
        module: The `SEALModule`; its policy is the one that rolls out.
        phase: For callbacks.
        e_step: What is done; another one samples in evaluation where the edits of training come from outside.
        round: Counted from 0.
        units: All units of the phase; a number stands for one of them.
    """

    trainer: Trainer
    module: Any
    phase: str
    e_step: EStep
    round: int
    units: Sequence[Sequence[Context]]

    def ids(self, unit: int) -> list[str]:
        """The ids of a unit's contexts."""
        return [context.id for context in self.units[unit]]


class Executor(Remembers, ABC):
    """Finishes units of work, in any order and wherever it likes."""

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
