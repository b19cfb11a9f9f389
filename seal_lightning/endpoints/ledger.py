"""What one call has asked for: answered from disk, answered by the endpoint, or still to be asked; and what it cost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from seal_lightning.endpoints.asking import Answered
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.prices import Price
from seal_lightning.endpoints.wire import Reply, Request
from seal_lightning.results.usage import render_usage
from seal_lightning.types import Usage, Written

log = logging.getLogger(__name__)


class Ledger:
    """The requests of one call; equal ones are asked once, and the first of them bears the cost.

    Args:
        requests: In the order of the texts to return.
        cache: Where replies are looked up and kept.
        price: Of the model, if known.
        accept: Replies for which it is False are neither kept nor taken from disk.
        may_be_empty: Empty answers are nothing to be remarked on.
        on_done: Told how many were answered since the last call.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        *,
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
        """Requests without an answer, each one different."""
        distinct = {request.key: request for request in self.requests}
        return [request for key, request in distinct.items() if key not in self._texts]

    def note(self, reply: Reply, *, batch: bool = False) -> Reply:
        """Count a reply, answer or not, as soon as the server has charged for it; for any thread."""
        self._spent.append(self._usage((reply,), batch=batch))
        return reply

    def keep(self, request: Request, reply: Reply) -> None:
        """Put an answer on disk, if it is worth it; for any thread."""
        if self._is_usable(reply):
            self._cache.put(request.key, reply)

    def enter(self, request: Request, answered: Answered, *, batch: bool = False) -> None:
        """Note the answer to a request."""
        self._texts[request.key] = answered.reply.text
        self._cut[request.key] = answered.reply.finish == "length"
        self._usages[request.key] = self._usage(answered.replies, batch=batch)
        self._uncounted += sum(not reply.counted for reply in answered.replies)
        self._replaced += answered.reply.replaced > 0
        self._empty[answered.reply.finish or "unknown"] += not answered.reply.text.strip()
        self._on_done(self._times[request.key])

    def wait(self) -> None:
        """Say that there is nothing new; whoever listens may raise."""
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
        """What becomes of the answers that came."""
        if self._cache.folder is None:
            return "nothing is kept, since cache is null"
        but = f", but {self._cache.lost} that could not be written" if self._cache.lost else ""
        return f"answered requests are in the cache{but}"

    def check_cache(self) -> None:
        """Raise a `ConfigError` if answers cannot be kept, before any is paid for."""
        self._cache.check()

    @contextmanager
    def accounting(self, where: str) -> Iterator[None]:
        """Log what was spent if the block fails: nobody gets its usages then."""
        try:
            yield
        except BaseException:
            if spent := render_usage(sum(self._spent, Usage())).removeprefix("endpoints: "):
                log.warning(
                    "%s: a call has failed, what it cost so far is in no sum: %s; %s", where, spent, self.kept()
                )
            raise

    def remark(self, where: str) -> None:
        """Log what a person should know about the replies."""
        if self._uncounted:
            log.warning("%s: %d replies without a usage block, counted as 0 tokens", where, self._uncounted)
        if self._replaced:
            log.warning(
                "%s: %d answers with halves of surrogate pairs or NUL characters, which became U+FFFD",
                where,
                self._replaced,
            )
        reasons = ", ".join(f"{name} {count}x" for name, count in self._empty.most_common() if count)
        if reasons and not self.may_be_empty:
            log.warning("%s: %d empty answers, finish reasons: %s", where, sum(self._empty.values()), reasons)
