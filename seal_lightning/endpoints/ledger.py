"""The requests of one call: answered from disk, answered by the endpoint, or still pending; and what they cost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.prices import Price
from seal_lightning.endpoints.wire import Reply, Request
from seal_lightning.results.usage import render_usage
from seal_lightning.types import Usage, Written

log = logging.getLogger(__name__)


@dataclass
class Ledger:
    """The requests of one call; equal ones are asked once, and the first of them bears the cost.

    Attributes:
        requests: What is asked, in the order of the texts to return.
        cache: Where replies are looked up and kept.
        price: Price of the model, if known.
        accept: Replies for which it returns False are neither kept nor taken from disk.
        may_be_empty: Whether empty answers go without a remark.
        on_done: Told how many were answered since the last call.
    """

    requests: Sequence[Request]
    cache: Cache
    price: Price | None
    accept: Callable[[str], bool] | None
    may_be_empty: bool
    on_done: Callable[[int], None]
    _written: dict[str, Written] = field(default_factory=dict)
    _spent: list[Usage] = field(default_factory=list)
    _uncounted: int = 0
    _replaced: int = 0
    _empty: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._times = Counter(request.key for request in self.requests)
        for key in self._times:
            if (reply := self.cache.get(key)) is not None and self._is_usable(reply):
                self._written[key] = Written(reply.text, Usage(cached=1), reply.finish == "length")
        if self._written:
            self.on_done(sum(self._times[key] for key in self._written))

    def _is_usable(self, reply: Reply) -> bool:
        return self.accept is None or self.accept(reply.text)

    @property
    def pending(self) -> list[Request]:
        """The distinct requests without an answer."""
        distinct = {request.key: request for request in self.requests}
        return [request for key, request in distinct.items() if key not in self._written]

    def note(self, reply: Reply, *, batch: bool = False) -> Reply:
        """Count a reply, an answer or not, as soon as the server has charged for it; any thread may call this."""
        self._spent.append(self._usage((reply,), batch=batch))
        return reply

    def keep(self, request: Request, reply: Reply) -> None:
        """Put an answer on disk if it is usable; any thread may call this."""
        if self._is_usable(reply):
            self.cache.put(request.key, reply)

    def enter(self, request: Request, replies: Sequence[Reply], *, batch: bool = False) -> None:
        """Note the answer to a request: the last of its replies; those before it were empty."""
        answer = replies[-1]
        usage = self._usage(replies, batch=batch)
        self._written[request.key] = Written(answer.text, usage, answer.finish == "length")
        self._uncounted += sum(not reply.counted for reply in replies)
        self._replaced += answer.replaced > 0
        self._empty[answer.finish or "unknown"] += not answer.text.strip()
        self.on_done(self._times[request.key])

    def wait(self) -> None:
        """Say that nothing is new; the listener may raise here."""
        self.on_done(0)

    def _usage(self, replies: Sequence[Reply], *, batch: bool) -> Usage:
        price = self.price
        return Usage(
            requests=len(replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            dollars=float(sum((price.dollars(r, batch=batch) for r in replies), Decimal(0))) if price else None,
        )

    def written(self) -> list[Written]:
        """The texts in order, each with its usage; an equal request after the first one cost nothing."""
        left, texts = dict(self._written), []
        for request in self.requests:
            texts.append(left[request.key])
            left[request.key] = replace(texts[-1], usage=Usage(cached=1))
        return texts

    def kept(self) -> str:
        """What becomes of the answers received so far."""
        if self.cache.folder is None:
            return "nothing is kept, since cache is null"
        but = f", except {self.cache.lost} that could not be written" if self.cache.lost else ""
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
