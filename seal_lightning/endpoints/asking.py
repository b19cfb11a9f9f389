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
from typing import Any

from seal_lightning.endpoints.failures import Again
from seal_lightning.endpoints.wire import Reply, Request
from seal_lightning.errors import EndpointError

log = logging.getLogger(__name__)

EMPTY_ATTEMPTS = 3  # after so many empty answers the model is believed
_LOUD = 4  # a request that failed so often is worth a warning


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


class Asking:
    """One call's requests.

    Args:
        attempt: Asks once; raises `Again` where it may go well another time.
        where: The model and its endpoint, for messages.
        kept: What becomes of the answers that came, for messages.
        concurrency: Requests under way at once.
        patience: For each of them.
    """

    def __init__(
        self, attempt: Callable[[Request], Reply], *, where: str, kept: str, concurrency: int, patience: Patience
    ) -> None:
        self._attempt = attempt
        self._where = where
        self._kept = kept
        self._concurrency = concurrency
        self._patience = patience
        self._stop = threading.Event()
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._warned = False

    def run(
        self, requests: Sequence[Request], *, keep: Callable[[Request, Reply], None]
    ) -> Iterator[tuple[Request, Answered]]:
        """Each request with its answer, as they come; `keep` is told of an answer by the thread that got it.

        Raises:
            SealError: A request was refused, or not answered after all retries.
        """

        def ask(request: Request) -> Answered:
            answered = self._insist(request)
            keep(request, answered.reply)
            return answered

        with ThreadPoolExecutor(max(1, min(self._concurrency, len(requests)))) as pool:
            futures = {pool.submit(ask, request): request for request in requests}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:  # on an error, an interrupt, or at the end
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        if self._failures:
            counts = ", ".join(f"{kind} {count}x" for kind, count in self._failures.most_common())
            log.info("%s: %d requests answered, failed attempts: %s", self._where, len(requests), counts)

    def _insist(self, request: Request) -> Answered:
        """Ask until there is an answer; a model that answers nothing is asked a few times only."""
        import tenacity

        replies: list[Reply] = []

        def attempt() -> Reply:
            reply = self._attempt(request)
            replies.append(reply)
            if not reply.text.strip() and len(replies) < EMPTY_ATTEMPTS:
                raise Again("empty", "an empty answer")
            return reply

        patience = self._patience
        jitter = tenacity.wait_random_exponential(min=patience.shortest, max=patience.longest)

        def wait(state: tenacity.RetryCallState) -> float:
            return min(max(jitter(state), _failure(state).wait), patience.at_most)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Again),
            stop=tenacity.stop_after_attempt(patience.retries + 1),
            wait=wait,
            before_sleep=self._note,
            sleep=self._sleep,
            retry_error_callback=lambda state: _failure(state),
        )
        outcome = retrying(attempt)
        if isinstance(outcome, Again):
            raise EndpointError(
                f"{self._where}: no answer after {patience.retries + 1} attempts, the last one: {outcome.reason}; run "
                f"the command again once the endpoint answers: {self._kept}"
            )
        return Answered(outcome, tuple(replies))

    def _note(self, state: Any) -> None:
        failure = _failure(state)
        with self._lock:
            self._failures[failure.kind] += 1
            loud = state.attempt_number >= _LOUD and not self._warned
            self._warned = self._warned or loud
        if loud:
            log.warning("%s: attempt %d failed, trying on: %s", self._where, state.attempt_number, failure.reason)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise EndpointError(f"{self._where}: given up, since another request failed")


def _failure(state: Any) -> Again:
    failure = state.outcome.exception()
    assert isinstance(failure, Again)
    return failure
