"""One call to an endpoint: the connections it opens, the threads that ask, and the ledger that takes the answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from seal_lightning.endpoints.address import Address
from seal_lightning.endpoints.asking import EMPTY_ATTEMPTS, Insistence, Patience, in_threads
from seal_lightning.endpoints.batch import BatchJob, job_key
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.failures import Diagnosis
from seal_lightning.endpoints.ledger import Ledger
from seal_lightning.endpoints.wire import Reply, Request

if TYPE_CHECKING:
    from seal_lightning.endpoints.transport import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Asks an endpoint for what is not on disk.

    Attributes:
        address: Where the endpoint is.
        patience: How long to insist.
        concurrency: Most requests under way at once.
        cache: Where replies and batch jobs are kept.
    """

    address: Address
    patience: Patience
    concurrency: int
    cache: Cache

    def ask(self, ask: Callable[[Connection], T], on_wait: Callable[[], None], *, final: Collection[int] = ()) -> T:
        """The server's answer to one request that is not kept; statuses in `final` are not tried again."""
        client, answers = self.address.connect(), list[T]()
        insist = Insistence(self.patience, Diagnosis(self.address, final), kept=lambda: "nothing is lost")

        def call() -> T:
            return insist(lambda: ask(client))

        in_threads([call], threads=1, insist=insist, on_result=answers.append, on_wait=on_wait, close=client.close)
        return answers[0]

    def answer(self, ledger: Ledger) -> None:
        """Ask for each pending request of a ledger."""
        if not (pending := ledger.pending):
            return
        self.cache.check()
        client, insist = self.address.connect(), self._insistence(ledger)
        empties = 1 if ledger.may_be_empty else EMPTY_ATTEMPTS

        def call(request: Request) -> tuple[Request, Sequence[Reply]]:
            def attempt() -> Reply:
                return ledger.note(self.address.read(client.post(request.route, request.body)))

            replies = insist.until_said(attempt, empties=empties)
            ledger.keep(request, replies[-1])
            return request, replies

        in_threads(
            [partial(call, request) for request in pending],
            threads=self.concurrency,
            insist=insist,
            on_result=lambda answer: ledger.enter(*answer),
            on_wait=ledger.wait,
            close=client.close,
        )
        insist.report(len(pending))

    def submit(self, ledger: Ledger, poll_seconds: float) -> None:
        """Ask for the pending requests of a ledger in one batch job; what fails within it stays pending."""
        if not (pending := ledger.pending):
            return
        self.cache.check()
        client, insist = self.address.connect(len(pending)), self._insistence(ledger)
        job = BatchJob(self.address, client, insist, self.cache)
        key = job_key(ledger.requests)

        def keep(request: Request, reply: Reply) -> None:
            ledger.keep(request, ledger.note(reply, batch=True))

        def enter(replies: Sequence[tuple[Request, Reply]]) -> None:
            for request, reply in replies:
                ledger.enter(request, (reply,), batch=True)

        in_threads(
            [lambda: job.run(pending, key=key, poll_seconds=poll_seconds, keep=keep)],
            threads=1,
            insist=insist,
            on_result=enter,
            on_wait=ledger.wait,
            close=client.close,
        )

    def _insistence(self, ledger: Ledger) -> Insistence:
        return Insistence(self.patience, Diagnosis(self.address), kept=ledger.kept)
