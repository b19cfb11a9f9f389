"""Many requests on their way at once: each is repeated until it is answered, and the first failure stops all.

The openai client makes single attempts (its own retries are off), tenacity repeats them: there is one layer. The thread
that calls does nothing but wait, so that it can be told to stop at any time, whatever a server is up to.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from seal_lightning.endpoints.failures import Again
from seal_lightning.endpoints.wire import Reply, Request
from seal_lightning.errors import EndpointError

log = logging.getLogger(__name__)

EMPTY_ATTEMPTS = 3  # after so many empty answers the model is believed
_LOUD = 4  # a request that failed so often is worth a warning
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to insist: attempts after the first, and the bounds in seconds of the random wait before each."""

    retries: int = 8
    shortest: float = 0.5
    longest: float = 60.0
    at_most: float = 600.0  # however long a server wants to be left alone
    tick: float = 0.5  # between two times that the waiting thread asks whether to go on
    grace: float = 1.5  # for requests under way when it is told to stop: they are paid for


@dataclass(frozen=True, slots=True)
class Answered:
    """The last reply to a request, and every reply that the server counted on the way to it."""

    reply: Reply
    replies: tuple[Reply, ...]


class Stopped(Exception):
    """Nobody waits for this answer any more."""


class Insistence:
    """Repeats calls until they succeed, for all threads of one call; the waits grow, at random.

    Args:
        patience: For each call.
        where: The model and its endpoint, for messages.
        kept: Says what becomes of the answers that came, for messages.
    """

    def __init__(self, patience: Patience, *, where: str, kept: Callable[[], str]) -> None:
        self.patience = patience
        self.error: BaseException | None = None  # the first one that stopped all
        self._where = where
        self._kept = kept
        self._stopped = threading.Event()
        self._failures: Counter[str] = Counter()
        self._warned = False
        self._lock = threading.Lock()

    def __call__(self, call: Callable[[], T], *, repeat: Callable[[Again], bool] = lambda failure: True) -> T:
        """What `call` returns once it does not raise `Again`, or one that `repeat` finds worth another attempt.

        Raises:
            EndpointError: It did, after all attempts.
            Stopped: Another thread has failed, or nobody waits.
        """
        import tenacity

        jitter = tenacity.wait_random_exponential(min=self.patience.shortest, max=self.patience.longest)

        def wait(state: Any) -> float:
            return min(max(jitter(state), state.outcome.exception().wait), self.patience.at_most)

        def attempt() -> T:
            self.check()
            return call()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Again) and repeat(error)),
            stop=tenacity.stop_after_attempt(self.patience.retries + 1),
            wait=wait,
            before_sleep=self._note,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Again as failure:
            attempts, reason = retrying.statistics["attempt_number"], failure.reason
        raise EndpointError(
            f"{self._where}: no answer after {attempts} attempts, the last one: {reason}; run the command again once "
            f"the endpoint answers: {self._kept()}"
        )

    def stop(self, error: BaseException | None = None) -> None:
        """Make no more attempts in any thread: a call failed for good, or nobody waits for an answer any more."""
        with self._lock:
            self.error = self.error or error
            self._stopped.set()

    def check(self) -> None:
        """Raise `Stopped` once there are to be no more attempts."""
        if self._stopped.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Sleep, until all is stopped at the latest."""
        self._stopped.wait(seconds)
        self.check()

    def rest(self) -> None:
        """Wait a moment before asking once more what was answered with nothing."""
        with self._lock:
            self._failures["empty"] += 1
        self.pause(self.patience.shortest * random.uniform(1, 2))

    def report(self, answered: int) -> None:
        """Log how many attempts failed on the way, by kind."""
        if self._failures:
            counts = ", ".join(f"{kind} {count}x" for kind, count in self._failures.most_common())
            log.info("%s: %d requests answered, failed attempts: %s", self._where, answered, counts)

    def _note(self, state: Any) -> None:
        failure, seconds = state.outcome.exception(), state.next_action.sleep
        with self._lock:
            self._failures[failure.kind] += 1
            loud = (state.attempt_number >= _LOUD or seconds > self.patience.longest) and not self._warned
            self._warned = self._warned or loud
        if loud:
            reason = f"{failure.reason}; the next one in {seconds:.0f} seconds" if seconds >= 1 else failure.reason
            log.warning("%s: attempt %d failed, trying on: %s", self._where, state.attempt_number, reason)

    def _sleep(self, seconds: float) -> None:
        self.pause(seconds)


def ask_all(
    requests: Sequence[Request],
    attempt: Callable[[Request], Reply],
    *,
    insist: Insistence,
    empties: int,
    concurrency: int,
    keep: Callable[[Request, Reply], None],
    on_answer: Callable[[Request, Answered], None],
    on_wait: Callable[[], None],
    close: Callable[[], None],
) -> None:
    """Ask for each request until it is answered.

    Args:
        requests: What to ask.
        attempt: Asks once; raises `Again` where it may go well another time.
        insist: Repeats it.
        empties: So many empty answers to a request are believed.
        concurrency: Requests under way at once.
        keep: Told of an answer by the thread that got it, at once.
        on_answer: Told of it in this thread; as `on_wait` and `close`, see `in_threads`.

    Raises:
        SealError: A request was refused, or not answered after all retries; the others are given up.
    """

    def ask(request: Request) -> tuple[Request, Answered]:
        answered = _ask(request, attempt, insist, empties)
        keep(request, answered.reply)
        return request, answered

    in_threads(
        [partial(ask, request) for request in requests],
        threads=concurrency,
        insist=insist,
        on_result=lambda found: on_answer(*found),
        on_wait=on_wait,
        close=close,
    )
    insist.report(len(requests))


def _ask(request: Request, attempt: Callable[[Request], Reply], insist: Insistence, empties: int) -> Answered:
    """Ask until there is an answer; a model that answers nothing is asked a few times only, whatever `retries` is."""
    replies = [insist(lambda: attempt(request))]
    while not replies[-1].text.strip() and len(replies) < empties:
        insist.rest()
        replies.append(insist(lambda: attempt(request)))
    return Answered(replies[-1], tuple(replies))


def in_threads(
    calls: Sequence[Callable[[], T]],
    *,
    threads: int,
    insist: Insistence,
    on_result: Callable[[T], None],
    on_wait: Callable[[], None],
    close: Callable[[], None],
) -> None:
    """Make calls in other threads, and hand on in this one what they return, as it comes.

    After a failure the calls under way end, the others never start. When this thread is to stop, they have a moment to
    end; a call that a silent server holds up longer is left behind, in a thread that keeps no process alive.

    Args:
        calls: They end soon after `insist` is stopped.
        threads: At most.
        insist: Stopped at the first failure.
        on_result: May raise, which ends all; so may `on_wait`.
        on_wait: Called every now and then while there is no result.
        close: Called once no thread makes a call any more.

    Raises:
        BaseException: The first that was raised by a call, or that of `on_result` or `on_wait`.
    """
    threads = max(1, min(threads, len(calls)))
    todo: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
    for call in [*calls, *[None] * threads]:
        todo.put(call)
    results: SimpleQueue[tuple[T] | None] = SimpleQueue()  # None: a thread has ended
    left, lock = [None] * threads, threading.Lock()

    def work() -> None:
        try:
            for call in iter(todo.get, None):
                insist.check()
                results.put((call(),))
        except BaseException as error:
            insist.stop(error)
        finally:
            with lock:
                left.pop()
                if not left:
                    close()
            results.put(None)

    workers = [threading.Thread(target=work, name="seal-endpoint", daemon=True) for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        _hand_on(results, threads, on_result, on_wait, insist.patience.tick)
    except BaseException:
        insist.stop()
        end = time.monotonic() + insist.patience.grace
        for worker in filter(threading.Thread.is_alive, workers):
            worker.join(max(0.0, end - time.monotonic()))
        raise
    if insist.error is not None:
        raise insist.error


def _hand_on(
    results: SimpleQueue[tuple[T] | None],
    threads: int,
    on_result: Callable[[T], None],
    on_wait: Callable[[], None],
    tick: float,
) -> None:
    """Until every thread has ended."""
    while threads:
        try:
            found = results.get(timeout=tick)
        except Empty:
            found = ()  # what `on_wait` raises is raised further down, so that it does not carry this along
        if found is None:
            threads -= 1
        elif found:
            on_result(*found)
        else:
            on_wait()
