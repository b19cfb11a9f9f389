"""Many requests under way at once: each is repeated until it is answered, and the first failure stops all of them.

The openai client makes single attempts and tenacity repeats them, so there is one layer of retries: the client's own
sleep where nothing can wake them. The threads are daemons, which no executor of the standard library has: Python waits
for an executor's threads before it exits, so one silent server would hold up the whole process. The calling thread only
waits, and can therefore be stopped at any time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from seal_lightning.endpoints.failures import Again, Diagnosis
from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import EndpointError, SealError

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)

EMPTY_ATTEMPTS = 3  # after so many empty answers the model is believed
_LOUD = 4  # failures of one request that are worth a warning
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to insist: attempts after the first, and the bounds in seconds of the random wait before each."""

    retries: int = 8
    shortest: float = 0.5
    longest: float = 60.0
    at_most: float = 600.0  # however long a server wants to be left alone
    tick: float = 0.5  # how often the waiting thread asks whether to go on
    grace: float = 1.5  # for requests under way when it is told to stop: they are paid for


class Abandoned(Exception):
    """Nobody waits for this answer any more."""


class Insistence:
    """Repeats attempts until they succeed, for all threads of one call; the waits are random and grow.

    Args:
        patience: Limits of each request.
        diagnosis: Tells what an error of an attempt means.
        kept: Says what becomes of the answers received so far, for messages.
    """

    def __init__(self, patience: Patience, diagnosis: Diagnosis, *, kept: Callable[[], str]) -> None:
        self.patience = patience
        self.error: BaseException | None = None  # the first one that stopped all
        self._diagnosis = diagnosis
        self._kept = kept
        self._stopped = threading.Event()
        self._failures: Counter[str] = Counter()
        self._warned = False
        self._lock = threading.Lock()

    def __call__(self, call: Callable[[], T], *, repeat: Callable[[Again], bool] = lambda failure: True) -> T:
        """What `call` returns once it succeeds; failures that `repeat` rejects are not attempted again.

        Raises:
            SealError: The failure is final, or there is still no answer after all attempts.
            Abandoned: Another thread has failed, or nobody waits.
        """
        import tenacity

        jitter = tenacity.wait_random_exponential(min=self.patience.shortest, max=self.patience.longest)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Again) and repeat(error)),
            stop=tenacity.stop_after_attempt(self.patience.retries + 1),
            wait=lambda state: min(max(jitter(state), _failure(state).wait), self.patience.at_most),
            before_sleep=self._note,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(lambda: self._attempt(call))
        except Again as failure:
            attempts, reason = retrying.statistics["attempt_number"], failure.reason
        raise EndpointError(
            f"{self._diagnosis.where}: no answer after {attempts} attempts, the last one: {reason}; run the command "
            f"again once the endpoint answers: {self._kept()}"
        )

    def _attempt(self, call: Callable[[], T]) -> T:
        import openai

        self.check()
        try:
            return call()
        except SealError:
            raise
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is not a reply, or not even JSON
            failure = self._diagnosis(error)
        raise failure

    def until_said(self, call: Callable[[], Reply], *, empties: int) -> tuple[Reply, ...]:
        """The replies to one request; an empty one is asked for again until `empties` of them are there."""
        replies = [self(call)]
        while not replies[-1].text.strip() and len(replies) < empties:
            with self._lock:
                self._failures["empty"] += 1
            self.pause(self.patience.shortest * random.uniform(1, 2))
            replies.append(self(call))
        return tuple(replies)

    def stop(self, error: BaseException | None = None) -> None:
        """Make no more attempts in any thread: a call failed for good, or nobody waits for an answer any more."""
        with self._lock:
            self.error = self.error or error
            self._stopped.set()

    def check(self) -> None:
        """Raise `Abandoned` once there are to be no more attempts."""
        if self._stopped.is_set():
            raise Abandoned

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until everything is stopped."""
        self._stopped.wait(seconds)
        self.check()

    def report(self, answered: int) -> None:
        """Log how many attempts failed on the way, by kind."""
        if self._failures:
            counts = ", ".join(f"{kind} {count}x" for kind, count in self._failures.most_common())
            log.info("%s: %d requests answered, failed attempts: %s", self._diagnosis.where, answered, counts)

    def _note(self, state: RetryCallState) -> None:
        failure, seconds = _failure(state), state.next_action.sleep if state.next_action else 0.0
        with self._lock:
            self._failures[failure.kind] += 1
            loud = (state.attempt_number >= _LOUD or seconds > self.patience.longest) and not self._warned
            self._warned = self._warned or loud
        if loud:
            reason = f"{failure.reason}; the next one in {seconds:.0f} seconds" if seconds >= 1 else failure.reason
            where = self._diagnosis.where
            log.warning("%s: attempt %d failed, trying again: %s", where, state.attempt_number, reason)

    def _sleep(self, seconds: float) -> None:
        self.pause(seconds)


def _failure(state: RetryCallState) -> Again:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Again), "nothing else is repeated"
    return error


def in_threads(
    calls: Sequence[Callable[[], T]],
    *,
    threads: int,
    insist: Insistence,
    on_result: Callable[[T], None],
    on_wait: Callable[[], None],
    close: Callable[[], None],
) -> None:
    """Make calls in other threads, and hand their results on in this one as they come.

    After a failure the calls under way end, and the others never start. When this thread is to stop, they have a moment
    to end; a call that a silent server holds up longer is left behind, in a thread that keeps no process alive.

    Args:
        calls: What to do; each ends soon after `insist` is stopped.
        threads: The most that run at once.
        insist: Stopped at the first failure.
        on_result: Called with each result; if it raises, all calls end.
        on_wait: Called every now and then while no result comes; if it raises, all calls end.
        close: Called once no thread makes a call any more.

    Raises:
        BaseException: The first one raised by a call, or that of `on_result` or `on_wait`.
    """
    threads = max(1, min(threads, len(calls)))
    todo, results = iter(calls), SimpleQueue[tuple[T] | None]()  # None: all have ended
    ended = threading.Barrier(threads, action=close)

    def work() -> None:
        try:
            for call in todo:
                insist.check()
                results.put((call(),))
        except BaseException as error:
            insist.stop(error)
        ended.wait()
        results.put(None)

    workers = [threading.Thread(target=work, name="seal-endpoint", daemon=True) for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for result in _until_none(results, insist.patience.tick):
            if result:
                on_result(*result)
            else:
                on_wait()
    except BaseException:
        insist.stop()
        end = time.monotonic() + insist.patience.grace
        for worker in filter(threading.Thread.is_alive, workers):
            worker.join(max(0.0, end - time.monotonic()))
        raise
    if insist.error is not None:
        raise insist.error


def _until_none(results: SimpleQueue[tuple[T] | None], tick: float) -> Iterator[tuple[T] | tuple[()]]:
    """The results as they come, and () whenever there was none for a while."""
    while True:
        try:
            result = results.get(timeout=tick)
        except Empty:
            result = ()  # yielded further down, so that what the caller raises does not carry this error along
        if result is None:
            return
        yield result
