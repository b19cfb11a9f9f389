"""Units of work in several processes of one thread on this machine: the trainer's own, and workers beside it.

This is the default, and by itself starts workers only where they pay: for a small model on a CPU, in a run of one rank
that has more than one core. Everywhere else it is the `LocalExecutor`. A unit comes to the same bits in any of the
processes, since each computes in one thread and on the same weights, so the number of processes changes no result.
The whole run of such a model is in one thread then, the M-step too: its products are too small to be divided.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import torch

from seal_lightning.e_step.step import EStep
from seal_lightning.endpoints.endpoint import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.fit.executors.base import LocalExecutor, UnitWork
from seal_lightning.fit.executors.worker import SharingWorker
from seal_lightning.hooks import RunModule, RunTrainer
from seal_lightning.models.memory import free_memory
from seal_lightning.models.shared import SharedWeights
from seal_lightning.processes.cores import TINY, WORKER_BYTES, cores, processes_for
from seal_lightning.processes.crew import Crew, Jobs
from seal_lightning.processes.parcels import CannotBeSent, holds, parcel
from seal_lightning.processes.ranks import UnitQueue, unit_name
from seal_lightning.progress.screen import Screen
from seal_lightning.text.plural import counted
from seal_lightning.types import Rollout

log = logging.getLogger(__name__)


class ProcessExecutor(LocalExecutor):
    """The E-step in several processes of one thread each, of which the trainer's is one.

    Args:
        processes: Their number; 1 is the trainer's alone. Null is one for each core that the run may keep busy where
            the model is small, on a CPU, and no endpoint is asked, and 1 elsewhere.
    """

    def __init__(self, *, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise ConfigError(f"trainer.executor.processes must be at least 1, or null, got {processes}: try null")
        self.processes = processes
        self._crew: Crew | None = None
        self._weights: SharedWeights | None = None
        self._cores = 1
        self._is_alone = False  # since something of the run cannot be sent to workers

    def begin(self, trainer: RunTrainer, module: RunModule, *, units: int) -> None:
        self._cores = cores()
        model, device = module.policy.view.model, trainer.strategy.root_device.type
        parameters = sum(parameter.numel() for parameter in model.parameters())
        wanted = self._wanted(trainer, module, module.e_step, units=units)
        if device == "cpu" and trainer.world_size == 1 and (wanted > 1 or parameters < TINY):
            torch.set_num_threads(1)  # in every step, since sums over several threads differ in their last bits

    def run(self, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        wanted = self._wanted(work.trainer, work.module, work.e_step, units=len(work.units))
        if wanted == 1:
            yield from super().run(work, queue)
            return
        crew = self._opened(work, min(wanted, len(queue.units)))
        prepare = self._sent((work.module.policy.merged, work.e_step, work.round)) if crew else None
        if crew is None or prepare is None:
            yield from super().run(work, queue)
            return
        jobs = Jobs(
            numbers=queue.units,
            here=lambda unit: self.unit(work, unit, queue),
            prepare=prepare,
            argument=lambda unit: tuple(work.units[unit]),
            name=lambda unit: unit_name(unit, work.ids(unit)),
            stopping=lambda: bool(queue.stopping() or queue.failed()),
            on_turn=queue.report,
        )
        yield from crew.share(jobs)
        queue.wait()

    def close(self) -> None:
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        if self._weights is not None:
            self._weights.close()
            self._weights = None

    def _wanted(self, trainer: RunTrainer, module: RunModule, e_step: EStep, *, units: int) -> int:
        """In how many processes a phase of so many units is done, whatever of it is finished already."""
        device, ranks = trainer.strategy.root_device.type, trainer.world_size
        if self.processes is None:
            if ranks > 1 or device != "cpu" or holds(e_step, Endpoint):
                return 1
            parameters = sum(parameter.numel() for parameter in module.policy.view.model.parameters())
            return processes_for(parameters=parameters, cores=self._cores, jobs=units)
        if self.processes > 1 and (ranks > 1 or device != "cpu"):
            raise ConfigError(
                f"trainer.executor.processes must be null or 1 on {counted(ranks, 'rank')} and a {device} device, got "
                f"{self.processes}: worker processes are for one rank on a CPU; leave trainer.executor out"
            )
        return self.processes

    def _opened(self, work: UnitWork, processes: int) -> Crew | None:
        """The workers, on the policy's weights as they are now; None where there are none to start."""
        if self.processes is None and self._crew is None:
            processes = min(processes, 1 + free_memory(torch.device("cpu")) // WORKER_BYTES)
        if self._is_alone or (self._crew is None and processes < 2):
            return None
        module = work.module.policy.module
        if self._weights is None:
            self._weights = SharedWeights(module)
        self._weights.write(module)
        if self._crew is None:
            precision = work.trainer.precision_plugin
            made_of = (work.module.source, work.module.tuning, work.module.seed, precision, self._weights)
            made_by = self._sent(partial(SharingWorker, *made_of))
            if made_by is None:
                return None
            self._crew = Crew(made_by, workers=processes - 1, files=[self._weights.number])
            Screen().line(f"units of work are done in {processes} processes of one thread")
        return self._crew

    def _sent(self, value: object) -> bytes | None:
        """What workers are sent; None, with a line in the log, where it cannot be sent."""
        try:
            return parcel(value)
        except CannotBeSent as error:
            log.warning("units of work are done in this process alone: %s", error)
            self._is_alone = True
            return None
