"""The work of `seal adapt` in several processes of one thread, where a small model on a CPU has more than one core.

Units of passages and groups of adapters come to the same bits in any process, since each computes in one thread and on
the same weights. A worker loads the policy as this process did, and then computes with the weights of this one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

import torch

from seal_lightning.endpoints.endpoint import Endpoint
from seal_lightning.models.memory import free_memory
from seal_lightning.models.shared import SharedWeights
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.cores import WORKER_BYTES, processes_for
from seal_lightning.processes.crew import Crew, Jobs
from seal_lightning.processes.parcels import CannotBeSent, holds, parcel
from seal_lightning.progress.screen import Screen

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")


class PolicyWorker:
    """What is in a worker: the policy of the process beside it, and what is done with it at the time.

    Args:
        load: Loads the policy on the CPU.
        weights: The policy's weights.
    """

    def __init__(self, load: Callable[[], Policy], weights: SharedWeights) -> None:
        self.policy = load()
        weights.use_in(self.policy.model)

    def prepare(self, work: Callable[[Policy, object], object]) -> None:
        self.work = work

    def run(self, item: object) -> object:
        return self.work(self.policy, item)


class Sharing(Generic[Value]):
    """This process and those beside it.

    Args:
        processes: How many there are to be; 1 is this one alone.
        policy: The policy, on a CPU where there are others.
        load: Loads it on the CPU; the others are sent this.
        screen: Where it is told how many there are.
        stopping: Whether a signal asked the command to stop.
    """

    def __init__(
        self,
        processes: int,
        policy: Policy,
        load: Callable[[], Policy],
        *,
        screen: Screen,
        stopping: Callable[[], bool],
    ) -> None:
        self.processes, self.policy, self.load = processes, policy, load
        self.screen, self.stopping = screen, stopping
        self._crew: Crew | None = None
        self._weights: SharedWeights | None = None
        if processes > 1:
            torch.set_num_threads(1)

    def share(
        self,
        numbers: Sequence[int],
        here: Callable[[int], Value | None],
        *,
        work: Callable[[Policy, Item], Value | None],
        item: Callable[[int], Item],
        name: Callable[[int], str],
    ) -> Iterator[tuple[int, Value]]:
        """Yield each numbered piece of work with what it came to; ends early where a signal asks for it.

        Args:
            numbers: The pieces, in the order in which they are begun.
            here: Does one in this process; None where a signal has broken it off.
            work: Does one in a worker, with the worker's policy.
            item: What `work` is given of a piece.
            name: The name of a piece for messages.
        """
        room = 1 + free_memory(self.policy.device) // WORKER_BYTES
        count = min(self.processes, len(numbers), room)
        prepare = self._prepared(work) if count > 1 or self._crew else None
        if prepare is None:
            for number in numbers:
                if self.stopping() or (value := here(number)) is None:
                    return
                yield number, value
            return
        crew = self._opened(count)
        jobs = Jobs(numbers, here, prepare, item, name, self.stopping, on_turn=partial(self._pass_on, crew))
        yield from ((number, value) for number, value in crew.share(jobs) if value is not None)

    def close(self) -> None:
        """End the other processes."""
        if self._crew is not None:
            self._crew.close()
        if self._weights is not None:
            self._weights.close()
        self._crew = self._weights = None

    def _prepared(self, work: Callable[[Policy, Item], Value | None]) -> bytes | None:
        if self.processes == 1:
            return None
        try:
            return parcel((work,))
        except CannotBeSent as error:
            log.warning("everything is done in this process alone: %s", error)
            self.processes = 1
            return None

    def _opened(self, processes: int) -> Crew:
        if self._crew is None:
            self._weights = SharedWeights(self.policy.model)
            self._weights.write(self.policy.model)
            made_by = parcel(partial(PolicyWorker, self.load, self._weights))
            self._crew = Crew(made_by, workers=processes - 1, files=[self._weights.number])
            self.screen.line(f"the work is done in {processes} processes of one thread")
        return self._crew

    def _pass_on(self, crew: Crew) -> None:
        if self.stopping():
            crew.stop()


def processes_of(policy: Policy, parts: object, *, cores: int, jobs: int) -> int:
    """In how many processes of one thread the work is done.

    Args:
        policy: The policy.
        parts: What is done; where something of it asks an endpoint, limits and prices are those of one process.
        cores: The cores that the command may keep busy.
        jobs: The pieces that the work comes in.
    """
    if policy.device.type != "cpu" or holds(parts, Endpoint):
        return 1
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return processes_for(parameters=parameters, cores=cores, jobs=jobs)
