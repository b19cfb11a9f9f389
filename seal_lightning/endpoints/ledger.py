"""The requests of one call: answered from disk, answered by the endpoint, or still pending; and what they cost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.prices import Price
from seal_lightning.endpoints.wire import Reply, Request
from seal_lightning.results.accuracy import render_usage
from seal_lightning.types import Usage, Written

log = logging.getLogger(__name__)


class Ledger:
    """The requests of one call; equal ones are asked once, and the first of them bears the cost.

    Args:
        requests: What is asked, in the order of the texts to return.
        cache: Where replies are looked up and kept.
        price: Price of the model, if known.
        accept: Replies for which it returns False are neither kept nor taken from disk.
        may_be_empty: Whether empty answers go without a remark.
        on_done: Told how many were answered since the last call.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        cache: Cache,
        price: Price | None,
        accept: Callable[[str], bool] | None,
        may_be_empty: bool,
        on_done: Callable[[int], None],
    ) -> None:
        self.requests = requests
        self._cache = cache
        self._price = price
        self._accept = accept
        self.may_be_empty = may_be_empty
        self._on_done = on_done
        self._times = Counter(request.key for request in requests)
        self._texts: dict[str, str] = {}
        self._cut: dict[str, bool] = {}
        self._usages: dict[str, Usage] = {}
        self._spent: list[Usage] = []
        self._uncounted = 0
        self._replaced = 0
        self._empty: Counter[str] = Counter()
        self._look_up()

    def _look_up(self) -> None:
        for key in self._times:
            if (reply := self._cache.get(key)) is not None and self._is_usable(reply):
                self._texts[key] = reply.text
                self._cut[key] = reply.finish == "length"
        if self._texts:
            self._on_done(sum(self._times[key] for key in self._texts))

    def _is_usable(self, reply: Reply) -> bool:
        return self._accept is None or self._accept(reply.text)

    @property
    def pending(self) -> list[Request]:
        """The distinct requests without an answer."""
        distinct = {request.key: request for request in self.requests}
        return [request for key, request in distinct.items() if key not in self._texts]

    def note(self, reply: Reply, *, batch: bool = False) -> Reply:
        """Count a reply, an answer or not, as soon as the server has charged for it; any thread may call this."""
        self._spent.append(self._usage((reply,), batch=batch))
        return reply

    def keep(self, request: Request, reply: Reply) -> None:
        """Put an answer on disk if it is usable; any thread may call this."""
        if self._is_usable(reply):
            self._cache.put(request.key, reply)

    def enter(self, request: Request, replies: Sequence[Reply], *, batch: bool = False) -> None:
        """Note the answer to a request: the last of its replies; those before it were empty."""
        answer = replies[-1]
        self._texts[request.key] = answer.text
        self._cut[request.key] = answer.finish == "length"
        self._usages[request.key] = self._usage(replies, batch=batch)
        self._uncounted += sum(not reply.counted for reply in replies)
        self._replaced += answer.replaced > 0
        self._empty[answer.finish or "unknown"] += not answer.text.strip()
        self._on_done(self._times[request.key])

    def wait(self) -> None:
        """Say that nothing is new; the listener may raise here."""
        self._on_done(0)

    def _usage(self, replies: Sequence[Reply], *, batch: bool) -> Usage:
        price = self._price
        return Usage(
            requests=len(replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            dollars=float(sum((price.dollars(r, batch=batch) for r in replies), Decimal(0))) if price else None,
        )

    def written(self) -> list[Written]:
        """The texts in order, each with its usage."""
        left = dict(self._usages)  # an equal request after the first one cost nothing
        return [
            Written(self._texts[row.key], left.pop(row.key, Usage(cached=1)), self._cut[row.key])
            for row in self.requests
        ]

    def kept(self) -> str:
        """What becomes of the answers received so far."""
        if self._cache.folder is None:
            return "nothing is kept, since cache is null"
        but = f", except {self._cache.lost} that could not be written" if self._cache.lost else ""
        return f"answered requests are in the cache{but}"

    @contextmanager
    def accounting(self, where: str) -> Iterator[None]:
        """Log what was spent if the block fails: nobody gets its usages then."""
        try:
            yield
        except BaseException:
            if spent := render_usage(sum(self._spent, Usage())).removeprefix("endpoints: "):
                log.warning("%s: a call failed, and no total includes its cost: %s; %s", where, spent, self.kept())
            raise

    def remark(self, where: str) -> None:
        """Log what a person should know about the replies."""
        if self._uncounted:
            log.warning("%s: %d replies without a usage block, counted as 0 tokens", where, self._uncounted)
        if self._replaced:
            log.warning(
                "%s: %d answers held halves of surrogate pairs or NUL characters, now U+FFFD", where, self._replaced
            )
        reasons = ", ".join(f"{name} {count}x" for name, count in self._empty.most_common() if count)
        if reasons and not self.may_be_empty:
            log.warning("%s: %d empty answers, finish reasons: %s", where, sum(self._empty.values()), reasons)
