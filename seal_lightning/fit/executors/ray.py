"""Units of work on a Ray cluster: workers with a replica of the policy each, which may join, leave and die meanwhile.

Rank 0 hands out the units, writes the journal and refreshes the replicas once a phase; the M-step stays with Lightning.
A worker loads the base model itself, so the model's name must mean the same on every node.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from seal_lightning.errors import RESUME, ConfigError, NoMemoryError, RetryableError, SealError, UnitError, check_count
from seal_lightning.files.extras import install
from seal_lightning.fit.executors.base import Executor, UnitWork
from seal_lightning.fit.executors.worker import UnitWorker
from seal_lightning.policy.tuned import PolicyState
from seal_lightning.processes.ranks import UnitQueue, one_line, share_of, unit_name
from seal_lightning.types import Rollout

log = logging.getLogger(__name__)

ATTEMPTS = 2  # of a unit that raises an error
DEATHS = 3  # of workers that had the same unit in hand, or that never got ready
PATIENCE = 60.0  # seconds for which a worker that was asked for is expected


class RayExecutor(Executor):
    """The E-step on the workers of a Ray cluster.

    Args:
        address: Address of a running cluster: `auto` or `ray://host:10001`; null starts one on this machine.
        workers: Most workers at the same time; null is as many as the cluster has room for, also when it grows.
        cpus: CPUs of a worker, which are also its threads.
        gpus: GPUs of a worker; a fraction shares a device.
        units_at_a_time: Units that a worker samples, trains and asks together; null is one on a CPU, and on a GPU as
            many as fill it.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: int = 1,
        gpus: float = 0,
        units_at_a_time: int | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"trainer.executor.workers must be at least 1, or null, got {workers}")
        if cpus < 1 or gpus < 0:
            raise ConfigError(f"trainer.executor needs at least 1 cpu and 0 gpus a worker, got {cpus} and {gpus}")
        self.address = address
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus
        if units_at_a_time is not None:
            check_count("trainer.executor.units_at_a_time", units_at_a_time)
        self.units_at_a_time = units_at_a_time
        self._pool: _Pool | None = None
        self._started_ray = False

    def run(self, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        state = work.module.policy.state()  # a collective under ZeRO-3
        if queue.ranks.rank == 0 and queue.units:
            pool = self._open(work)
            pool.refresh(state, work)
            yield from _hand_out(pool, work, queue)
        queue.wait()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._started_ray:
            import ray

            ray.shutdown()
            self._started_ray = False

    def _open(self, work: UnitWork) -> _Pool:
        if self._pool is None:
            try:
                import ray
            except ImportError as error:
                raise ConfigError(f"trainer.executor: RayExecutor needs ray: {install('ray')}") from error
            if not ray.is_initialized():
                self._connect()
            module = work.module
            device = "cuda" if self.gpus else "cpu"
            precision = work.trainer.precision_plugin
            made = (module.source, module.tuning, module.seed, precision, device, self.cpus, sys.path)
            self._pool = _Pool(made, module.base_fingerprint, self.workers, self.cpus, self.gpus, self.units_at_a_time)
        return self._pool

    def _connect(self) -> None:
        import ray

        handler = signal.getsignal(signal.SIGTERM)
        try:
            # without an address Ray would join whatever cluster was last started on this machine
            ray.init(
                address=self.address or "local",
                log_to_driver=False,
                include_dashboard=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise ConfigError(
                f"trainer.executor.address={self.address}: no Ray cluster answers there ({one_line(error)}); start one "
                "with `ray start --head`, or leave the address out"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would exit at once
        self._started_ray = True


@dataclass
class _Pool:
    """The workers: those that get ready, those that wait for a unit, those at work."""

    made_of: tuple[Any, ...]
    base: str  # the fingerprint of the base model
    limit: int | None
    cpus: int
    gpus: float
    units_at_a_time: int | None
    starting: dict[Any, Any] = field(default_factory=dict)  # the call of `refresh` -> worker
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, list[int]]] = field(default_factory=dict)  # the call of `run` -> worker and units
    proven: dict[Any, int] = field(default_factory=dict)  # have been ready once -> units that fill the worker's device
    newest: float = 0.0  # when the last one got ready
    failed_starts: int = 0  # in a row

    def refresh(self, state: PolicyState, work: UnitWork) -> None:
        """Give every worker, now and later, the policy of this phase."""
        import ray

        largest = tuple(max(work.units, key=len))
        self._phase = ray.put(state), ray.put(work.e_step), work.round, ray.put(largest)
        known, self.idle, self.starting = [*self.idle, *self.starting.values()], [], {}
        for worker in known:
            self._refresh(worker)

    @property
    def size(self) -> int:
        return len(self.starting) + len(self.idle) + len(self.busy)

    @property
    def alone(self) -> bool:
        """Whether there is one worker only, or another is asked for but does not come."""
        waited = time.monotonic() - self.newest > PATIENCE
        return self.size == 1 or (len(self.idle) + len(self.busy) == 1 and waited)

    def grow(self) -> None:
        """Ask for as many workers as there may be; Ray starts them when there is room."""
        import ray

        while self.size < self._wanted():
            actor = ray.remote(UnitWorker).options(num_cpus=self.cpus, num_gpus=self.gpus)
            self._refresh(actor.remote(*self.made_of))

    def _refresh(self, worker: Any) -> None:
        self.starting[worker.refresh.remote(*self._phase)] = worker

    def _wanted(self) -> int:
        if self.limit is not None:
            return self.limit
        import ray

        room = ray.cluster_resources()
        fits = [room.get("CPU", 0) // self.cpus] + ([room.get("GPU", 0) // self.gpus] if self.gpus else [])
        return max(1, int(min(fits)))

    def start(self, worker: Any, units: Sequence[int], work: UnitWork) -> None:
        self.idle.remove(worker)
        self.busy[worker.run.remote([tuple(work.units[unit]) for unit in units])] = worker, list(units)

    def share(self, worker: Any, units: Sequence[int], *, alone: Container[int]) -> list[int]:
        """Of the units that wait, those that a worker is given next: several only of those that need not be alone."""
        size = share_of(len(units), ranks=max(1, len(self.idle) + len(self.busy)), most=self.proven[worker])
        together = [unit for unit in units[:size] if unit not in alone]
        return together if together and together[0] == units[0] else [units[0]]

    def close(self) -> None:
        import ray

        for worker in [*self.starting.values(), *self.idle, *(worker for worker, _ in self.busy.values())]:
            ray.kill(worker)


def _hand_out(pool: _Pool, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
    """Yield units as workers finish them; units of dead and of broken workers are handed to others."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    waiting, failed_on, deaths = deque(queue.units), dict[int, list[Any]](), Counter[int]()
    alone = set[int]()  # failed together with others
    while waiting or pool.busy:
        stopping = queue.stopping() or queue.failed()
        if stopping and not pool.busy:
            break
        if waiting and not stopping:
            pool.grow()
            for worker in list(pool.idle):
                # a unit that failed on this worker waits for another one, if there is any
                fresh = [unit for unit in waiting if pool.alone or worker not in failed_on.get(unit, [])]
                if fresh:
                    units = pool.share(worker, fresh, alone=alone)
                    waiting = deque(unit for unit in waiting if unit not in units)
                    pool.start(worker, units, work)
        ready, _ = ray.wait([*pool.busy, *pool.starting], num_returns=1, timeout=0.25)
        queue.report()
        for call in ready:
            if call in pool.starting:
                _take_in(pool, call)
                continue
            worker, units = pool.busy.pop(call)
            try:
                done = ray.get(call)
            except RayTaskError as error:
                pool.idle.append(worker)
                _raise_if_hopeless(error, together=len(units) > 1)
                if len(units) > 1:
                    log.warning("%d units failed together (%s): one by one", len(units), one_line(_cause(error)))
                    alone |= set(units)
                    waiting.extend(units)
                    continue
                (unit,) = units
                failed_on.setdefault(unit, []).append(worker)
                what = f"{unit_name(unit, work.ids(unit))} failed on a Ray worker: {one_line(_cause(error))}"
                _try_again(what, len(failed_on[unit]) < ATTEMPTS, unit, waiting, queue)
            except RayError as error:  # the worker, its node or the way there
                ray.kill(worker)  # one that cannot be reached would keep its place
                for unit in units:
                    deaths[unit] += 1
                    what = f"a Ray worker died with {unit_name(unit, work.ids(unit))}: {one_line(error)}"
                    _try_again(what, deaths[unit] < DEATHS, unit, waiting, queue)
            else:
                pool.idle.append(worker)
                yield from zip(units, done, strict=True)


def _take_in(pool: _Pool, call: Any) -> None:
    """A worker has got ready, or has failed to."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    worker = pool.starting.pop(call)
    try:
        base, most = ray.get(call)
    except RayTaskError as error:
        _raise_if_hopeless(error, together=False)
        raise UnitError(f"trainer.executor: a Ray worker cannot take the policy: {one_line(_cause(error))}") from error
    except RayError as error:
        ray.kill(worker)
        log.warning("a Ray worker is lost: %s", one_line(error))
        pool.failed_starts += worker not in pool.proven  # one that was ready before has just left
        if pool.failed_starts >= DEATHS and not pool.idle and not pool.busy:
            raise UnitError(f"trainer.executor: Ray workers die before they are ready: {one_line(error)}") from error
        return
    if base != pool.base:
        raise ConfigError(
            "trainer.executor: a Ray worker has another base model than this process under the same name; make "
            "model.source.name mean the same files on every node"
        )
    pool.failed_starts, pool.newest = 0, time.monotonic()
    pool.proven[worker] = pool.units_at_a_time or most
    pool.idle.append(worker)


def _try_again(what: str, again: bool, unit: int, waiting: deque[int], queue: UnitQueue) -> None:
    if again:
        log.warning("%s; another worker tries it", what)
        waiting.append(unit)
    else:
        queue.give_up(f"{what}; {RESUME}")


def _raise_if_hopeless(error: Exception, *, together: bool) -> None:
    """Raise an error of the configuration or the data: no other worker would do better, nor a unit alone."""
    cause = _cause(error)
    retryable = (RetryableError, NoMemoryError) if together else RetryableError
    if isinstance(cause, SealError) and not isinstance(cause, retryable):
        raise cause from error


def _cause(error: Exception) -> BaseException:
    return getattr(error, "cause", None) or error
