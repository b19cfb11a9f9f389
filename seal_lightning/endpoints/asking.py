"""Many requests on their way at once: each is repeated until it is answered, and the first failure stops all.

The openai client makes single attempts (its own retries are off), tenacity repeats them: there is one layer.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Answered:
    """The last reply to a request, and every reply that the server counted on the way to it."""

    reply: Reply
    replies: tuple[Reply, ...]


class Insistence:
    """Repeats calls until they succeed, for all threads of one call; the waits grow, at random.

    Args:
        patience: For each call.
        where: The model and its endpoint, for messages.
        kept: What becomes of the answers that came, for messages.
    """

    def __init__(self, patience: Patience, *, where: str, kept: str) -> None:
        self._patience = patience
        self._where = where
        self._kept = kept
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self._failures: Counter[str] = Counter()
        self._warned = False
        self._lock = threading.Lock()

    def __call__(self, call: Callable[[], T], *, repeat: Callable[[Again], bool] = lambda failure: True) -> T:
        """What `call` returns once it does not raise `Again`, or one that `repeat` finds worth another attempt.

        Raises:
            EndpointError: It did, after all attempts.
        """
        import tenacity

        jitter = tenacity.wait_random_exponential(min=self._patience.shortest, max=self._patience.longest)

        def wait(state: Any) -> float:
            return min(max(jitter(state), state.outcome.exception().wait), self._patience.at_most)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Again) and repeat(error)),
            stop=tenacity.stop_after_attempt(self._patience.retries + 1),
            wait=wait,
            before_sleep=self._note,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(call)
        except Again as failure:
            attempts, reason = retrying.statistics["attempt_number"], failure.reason
        raise EndpointError(
            f"{self._where}: no answer after {attempts} attempts, the last one: {reason}; run the command again once "
            f"the endpoint answers: {self._kept}"
        )

    def stop(self, error: Exception | None = None) -> None:
        """Make no more attempts in any thread: a call failed for good, or nobody waits for an answer any more."""
        with self._lock:
            self._error = self._error or error
            self._stopped.set()

    def check(self) -> None:
        """Raise what the other calls were stopped for, if they were."""
        if self._stopped.is_set():
            raise self._error or EndpointError(f"{self._where}: interrupted")

    def report(self, answered: int) -> None:
        """Log how many attempts failed on the way, by kind."""
        if self._failures:
            counts = ", ".join(f"{kind} {count}x" for kind, count in self._failures.most_common())
            log.info("%s: %d requests answered, failed attempts: %s", self._where, answered, counts)

    def _note(self, state: Any) -> None:
        failure = state.outcome.exception()
        with self._lock:
            self._failures[failure.kind] += 1
            loud = state.attempt_number >= _LOUD and not self._warned
            self._warned = self._warned or loud
        if loud:
            log.warning("%s: attempt %d failed, trying on: %s", self._where, state.attempt_number, failure.reason)

    def _sleep(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self.check()


def ask_all(
    requests: Sequence[Request],
    attempt: Callable[[Request], Reply],
    *,
    insist: Insistence,
    keep: Callable[[Request, Reply], None],
    concurrency: int,
) -> Iterator[tuple[Request, Answered]]:
    """Each request with its answer, as they come.

    Args:
        requests: What to ask.
        attempt: Asks once; raises `Again` where it may go well another time.
        insist: Repeats it.
        keep: Told of an answer by the thread that got it, at once.
        concurrency: Requests under way at once.

    Raises:
        SealError: A request was refused, or not answered after all retries; the others are given up.
    """

    def ask(request: Request) -> Answered:
        insist.check()
        try:
            answered = _ask(request, attempt, insist)
            keep(request, answered.reply)
        except Exception as error:
            insist.stop(error)
            raise
        return answered

    with ThreadPoolExecutor(max(1, min(concurrency, len(requests)))) as pool:
        futures = {pool.submit(ask, request): request for request in requests}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # at the end, on an error, or on an interrupt: then those under way end, the others never start
            insist.stop()
            pool.shutdown(wait=True, cancel_futures=True)
    insist.report(len(requests))


def _ask(request: Request, attempt: Callable[[Request], Reply], insist: Insistence) -> Answered:
    """Ask until there is an answer; a model that answers nothing is asked a few times only."""
    replies: list[Reply] = []

    def once() -> Reply:
        replies.append(attempt(request))
        if not replies[-1].text.strip() and len(replies) < EMPTY_ATTEMPTS:
            raise Again("empty", "an empty answer")
        return replies[-1]

    return Answered(insist(once), tuple(replies))
