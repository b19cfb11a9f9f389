"""Numbered jobs shared out between this process and workers beside it, which take the next one as they are free.

This process works from the first moment; a worker joins when its imports are done, so that short work is not held up by
any. A worker that dies, or fails, gives its job back to this process, where it comes to what it would come to alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from seal_lightning.errors import RetryableError, SealError
from seal_lightning.processes.ranks import one_line
from seal_lightning.processes.worker import Worker, WorkerLostError

log = logging.getLogger(__name__)

Value = TypeVar("Value")
LOST = 2  # workers for each wanted one that may die before no further ones are started


@dataclass(frozen=True)
class Jobs(Generic[Value]):
    """What is shared out.

    Attributes:
        numbers: The jobs, in the order in which they are begun.
        here: Does one in this process; None where it was broken off, because the run is to stop.
        prepare: Arguments of the workers' `prepare`, pickled; called by each once before its first job.
        argument: What the workers' `run` is given for a job.
        name: A job in messages.
        stopping: Whether no further job is to be begun; asked by several threads.
        on_turn: Called between the jobs of this process, and again and again while it waits for workers.
    """

    numbers: Sequence[int]
    here: Callable[[int], Value | None]
    prepare: bytes
    argument: Callable[[int], object]
    name: Callable[[int], str]
    stopping: Callable[[], bool] = lambda: False
    on_turn: Callable[[], None] = lambda: None


@dataclass(eq=False)
class _Round(Generic[Value]):
    """Where the jobs of one call of `share` are."""

    jobs: Jobs[Value]
    waiting: deque[int] = field(default_factory=deque)
    only_here: deque[int] = field(default_factory=deque)  # a worker has failed on them
    in_hand: int = 0  # of workers
    done: deque[tuple[int, Value]] = field(default_factory=deque)
    failed: deque[tuple[int, Exception]] = field(default_factory=deque)


class Crew:
    """This process and its workers, for the jobs of several calls of `share`.

    Args:
        made_by: What makes a worker's object, with the methods `prepare` and `run`; pickled.
        workers: How many workers there are beside this process.
        files: File numbers that they inherit.
    """

    def __init__(self, made_by: bytes, *, workers: int, files: Sequence[int] = ()) -> None:
        self._made_by = made_by
        self._wanted, self._may_start = workers, workers * (1 + LOST)
        self._files = files
        self._workers: dict[Worker, threading.Thread] = {}
        self._round: _Round[Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._start()

    def share(self, jobs: Jobs[Value]) -> Iterator[tuple[int, Value]]:
        """Yield each job with what it came to, as it is finished here or by a worker.

        Ends early where `stopping` says so, once what workers have in hand is finished.

        Raises:
            Exception: What `here` raises; of a worker an error that would come up here too.
        """
        with self._open(jobs) as round:
            while True:
                jobs.on_turn()
                self._raise_or_take_back(round)
                if round.done:
                    yield round.done.popleft()
                elif (job := self._take(round, here=True)) is not None:
                    if (value := jobs.here(job)) is not None:
                        yield job, value
                elif self._is_over(round):
                    return
                else:
                    with self._changed:
                        self._changed.wait(0.1)

    def stop(self) -> None:
        """Tell the workers that the run is to stop."""
        for worker in list(self._workers):
            worker.stop()

    def close(self) -> None:
        """End the workers, whatever they are at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker, thread in list(self._workers.items()):
            worker.kill()
            thread.join()

    # -- this process ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        while len(self._workers) < self._wanted and self._may_start:
            self._may_start -= 1
            worker = Worker(files=self._files)
            self._workers[worker] = threading.Thread(
                target=self._serve, args=(worker,), daemon=True, name="seal-worker"
            )
            self._workers[worker].start()

    @contextmanager
    def _open(self, jobs: Jobs[Value]) -> Iterator[_Round[Value]]:
        self._start()
        round = _Round(jobs, deque(jobs.numbers))
        with self._changed:
            self._round = round
            self._changed.notify_all()
        try:
            yield round
        finally:
            with self._changed:
                self._round = None

    def _raise_or_take_back(self, round: _Round[Value]) -> None:
        """Raise a worker's error that would come up here too; otherwise its job is done again here."""
        while round.failed:
            job, error = round.failed.popleft()
            if isinstance(error, SealError) and not isinstance(error, RetryableError | WorkerLostError):
                raise error
            how = "died with" if isinstance(error, WorkerLostError) else "failed on"
            log.warning("a worker %s %s: %s; it is done again here", how, round.jobs.name(job), _reason(error))
            round.only_here.append(job)

    def _take(self, round: _Round[Value], *, here: bool) -> int | None:
        """The next job for this process, or for a worker; None where there is none now."""
        with self._changed:
            if self._closed or round.jobs.stopping():
                return None
            if here and round.only_here:
                return round.only_here.popleft()
            if not round.waiting:
                return None
            round.in_hand += not here
            return round.waiting.popleft()

    def _is_over(self, round: _Round[Value]) -> bool:
        with self._changed:
            left = not round.jobs.stopping() and (round.waiting or round.only_here)
            return not (left or round.in_hand or round.done or round.failed)

    # -- a worker's thread -------------------------------------------------------------------------------------------

    def _serve(self, worker: Worker) -> None:
        try:
            worker.make(self._made_by)
            prepared: _Round[Any] | None = None
            while (taken := self._wait_for_job()) is not None:
                prepared = self._do(worker, *taken, prepared)
        except WorkerLostError as error:
            if not self._closed and not error.told:
                log.warning("a worker is lost: %s", error)
        except Exception as error:  # it cannot be made or prepared, nor could another one be
            self._wanted = 0
            log.warning("a worker cannot be used: %s; all work is done here", one_line(error))
        self._workers.pop(worker, None)
        worker.kill()

    def _wait_for_job(self) -> tuple[_Round[Any], int] | None:
        with self._changed:
            while not self._closed:
                if (round := self._round) is not None and (job := self._take(round, here=False)) is not None:
                    return round, job
                self._changed.wait(0.5)
        return None

    def _do(self, worker: Worker, round: _Round[Any], job: int, prepared: _Round[Any] | None) -> _Round[Any]:
        """Let a worker do a job; returns the round that it is prepared for. Raises where it is of no further use."""
        try:
            if prepared is not round:
                worker.call("prepare", round.jobs.prepare)
        except Exception:
            self._put_back(round, job)
            raise
        try:
            value = worker.call("run", (round.jobs.argument(job),))
        except Exception as error:
            self._finish(round, failed=(job, error))
            if isinstance(error, WorkerLostError):
                error.told = True  # with the job
                raise
        else:
            self._finish(round, done=(job, value))
        return round

    def _put_back(self, round: _Round[Any], job: int) -> None:
        with self._changed:
            round.in_hand -= 1
            round.waiting.appendleft(job)
            self._changed.notify_all()

    def _finish(
        self, round: _Round[Any], *, done: tuple[int, Any] | None = None, failed: tuple[int, Exception] | None = None
    ) -> None:
        with self._changed:
            round.in_hand -= 1
            round.done.extend([done] if done else [])
            round.failed.extend([failed] if failed else [])
            self._changed.notify_all()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, WorkerLostError) else one_line(error)
