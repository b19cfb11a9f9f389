"""The processes of a run and what they tell each other beside tensors.

Work is shared through the process group's store: a rank takes the next unit when it is free, so a slow one holds nobody
up. Nothing waits in a collective while units run; ranks that are done poll the store, so the time-out of the process
group does not matter, and the objects are gathered once everything is finished.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _get_default_store

from seal_lightning.errors import RESUME, Stopped, UnitError
from seal_lightning.files.bounded import parse_json
from seal_lightning.processes.watch import PATIENCE, Watch

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")
STUCK_AFTER = 60.0  # seconds at least that a rank may spend on a unit before it is named
SILENT_AFTER = 1800.0  # seconds within a unit without any progress, after which a rank is given up: its disk hangs
TELL_EVERY = 5.0  # seconds between two words about progress


class Ranks:
    """All processes of the run; also when there is only this one.

    Args:
        patience: Seconds without a sign of life after which a rank is given up.
        on_end: Called with the reason before this process is ended for that from outside of its main thread.
    """

    def __init__(self, *, patience: float = PATIENCE, on_end: Callable[[str], None] = lambda reason: None) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1
        self._store: Any = _get_default_store() if together else HashStore()
        self._run = self._store.add(f"seal/runs-of-rank-{self.rank}", 1)  # the store outlives a trainer
        self._queues = count()
        self.watch: Watch | None = None
        if self.size > 1:
            self.watch = Watch(
                self._store, run=self._run, rank=self.rank, size=self.size, patience=patience, on_end=on_end
            )

    @contextmanager
    def watched(self, stop: Callable[[], int]) -> Iterator[None]:
        """Give signs of life in this block, and give up on ranks that give none.

        Args:
            stop: The number of the signal that asked this process to stop, or 0.
        """
        if self.watch is None:
            yield
            return
        self.watch.start(stop)
        try:
            yield
        finally:
            self.watch.stop()

    @property
    def lost(self) -> str:
        """Which rank was given up, and why; "" while all are there."""
        return self.watch.lost if self.watch else ""

    def gather(self, value: _Value) -> list[_Value]:
        """Every rank's value, by rank; a collective."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def queue(self, units: Sequence[int], *, stop: Callable[[], int], on_wait: Callable[[int], None]) -> UnitQueue:
        """A queue of units that all ranks open with the same units.

        Args:
            units: Units in the order in which they are handed out.
            stop: The number of the signal that asked this process to stop, or 0.
            on_wait: Called with the number of units that any ranks have finished.
        """
        store = PrefixStore(f"seal/run-{self._run}/queue-{next(self._queues)}", self._store)
        return UnitQueue(store, units, ranks=self, stop=stop, on_wait=on_wait)


class UnitQueue:
    """Units of work, each handed to one rank at a time.

    A unit that fails is handed to one other rank, if there is one. All ranks leave together: when every unit is
    finished, when one has failed for good, or when a signal asked any of them to stop.
    """

    def __init__(
        self,
        store: Store,
        units: Sequence[int],
        *,
        ranks: Ranks,
        stop: Callable[[], int],
        on_wait: Callable[[int], None],
    ) -> None:
        self.store = store
        self.units = list(units)
        self.ranks = ranks
        self._stop = stop
        self._on_wait = on_wait
        self._asked_to_stop = False
        self._taken_at: dict[int, float] = {}
        self._seconds = 0.0
        self._seen: dict[tuple[int, str], float] = {}  # when this rank first saw another at a unit
        self._named: set[int] = set()
        self._moved: dict[int, tuple[int, float]] = {}  # the progress of each rank, and since when it is that
        self._told = time.monotonic()

    def take(self) -> int | None:
        """The next unit for this rank, or None once all are finished. Blocks and raises as `take_some`."""
        return next(iter(self.take_some(1)), None)

    def take_some(self, most: int) -> list[int]:
        """The next units for this rank, which it finishes together; none once all are finished.

        One rank alone shares what is left out evenly; several take ever fewer of it, so that all end at about the same
        time. Blocks while other ranks are at work, in case one of their units fails and has to be done here.

        Args:
            most: How many at most.

        Raises:
            Stopped: A signal reached one of the ranks; all of them raise it.
            UnitError: A unit has failed wherever it was tried; all ranks raise it.
        """
        return self._wait(most=most)

    def wait(self) -> None:
        """Until all units are finished, without taking any. Raises as `take_some`."""
        self._wait(most=0)

    def finish(self, unit: int) -> None:
        """This rank has finished `unit`, and it is in the journal."""
        if unit in self._taken_at:
            self._seconds = max(self._seconds, time.monotonic() - self._taken_at[unit])
        self.put_back(unit)
        self.store.add("finished", 1)

    def put_back(self, *units: int) -> None:
        """This rank is not at these units any more, such as because all are asked to stop."""
        for unit in units:
            self._taken_at.pop(unit, None)
        self.store.set(f"at-work/{self.ranks.rank}", "")

    def fail(self, unit: int, error: Exception, *, contexts: Sequence[str]) -> None:
        """`unit` failed here; another rank gets it, unless one has failed on it before.

        Args:
            contexts: Ids of its contexts, for the message.

        Raises:
            UnitError: There is no other rank.
        """
        self.put_back(unit)
        what = f"{unit_name(unit, contexts)} failed on rank {self.ranks.rank}: {one_line(error)}"
        if self.ranks.size == 1:
            raise UnitError(f"{what}; {RESUME}") from error
        if self.store.add(f"failures-of/{unit}", 1) > 1:
            self.give_up(f"{what}; {RESUME}")
            return
        log.warning("%s; another rank tries it", what)
        number = self.store.add("failures", 1)
        self.store.set(f"failure/{number}", json.dumps({"unit": unit, "rank": self.ranks.rank}))

    def give_up(self, reason: str) -> None:
        """A unit has failed for good: all ranks raise `UnitError` with `reason` when they next ask."""
        self.store.set("fatal", reason)

    def failed(self) -> bool:
        """Whether a unit has failed for good."""
        return self.store.check(["fatal"])

    def report(self) -> None:
        """Tell whoever shows progress how many units are finished."""
        self._on_wait(self.store.add("finished", 0))

    def abort(self, reason: str) -> None:
        """Make all ranks leave with `reason`, and return when they have; the caller raises its own error."""
        self.give_up(reason)
        self._leave()

    def stopping(self) -> int:
        """The number of the signal that any rank received, or 0."""
        if time.monotonic() - self._told > TELL_EVERY:  # asked within units, whenever something was done
            self._told = time.monotonic()
            self.store.add(f"progress/{self.ranks.rank}", 1)
        if (number := self._stop()) and not self.store.check(["stop"]):
            self.store.set("stop", str(number))
        return int(self.store.get("stop")) if self.store.check(["stop"]) else 0

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self, *, most: int) -> list[int]:
        pause = 0.01
        while True:
            self._check_lost()
            finished = self.store.add("finished", 0)
            self._on_wait(finished)
            if finished >= len(self.units):
                return []
            if self.failed():
                self._leave()
                raise UnitError(self.store.get("fatal").decode())
            if number := self.stopping():
                if not self._asked_to_stop:
                    self._asked_to_stop = True
                    self.store.add("stopped", 1)
                if self.store.add("stopped", 0) == self.ranks.size:
                    self._leave()
                    raise Stopped(number)
            elif most and (units := self._next(most)):
                self._taken_at |= dict.fromkeys(units, time.monotonic())
                name = "unit" if len(units) == 1 else "units"
                self.store.set(f"at-work/{self.ranks.rank}", f"{name} {', '.join(map(str, units))}")
                return units
            self._name_stuck()
            time.sleep(pause)
            pause = min(0.25, 2 * pause)

    def _next(self, most: int) -> list[int]:
        """Units that nobody has taken, else one that failed elsewhere, else none."""
        left = len(self.units) - self.store.add("taken", 0)
        if left > 0:
            size = share_of(left, ranks=self.ranks.size, most=most)
            end = self.store.add("taken", size)
            if units := self.units[end - size : end]:
                return units
        failed = self._next_failed()
        return [] if failed is None else [failed]

    def _next_failed(self) -> int | None:
        """A unit that failed on another rank and that nobody has taken yet."""
        for number in range(1, self.store.add("failures", 0) + 1):
            if not self.store.check([f"failure/{number}"]):
                continue  # its rank is just writing it
            failure = parse_json(self.store.get(f"failure/{number}"))
            free = failure["rank"] != self.ranks.rank and self.store.add(f"retry/{number}", 0) == 0
            if free and self.store.add(f"retry/{number}", 1) == 1:
                return failure["unit"]
        return None

    def _leave(self) -> None:
        """Leave together: units that others have in hand are worth keeping, and the store lives in rank 0."""
        self._meet("left")
        if self.ranks.rank == 0:
            self._meet("gone")
        else:
            self.store.add("gone", 1)

    def _meet(self, name: str) -> None:
        self.store.add(name, 1)
        while self.store.add(name, 0) < self.ranks.size:
            self._check_lost()
            time.sleep(0.02)

    def _check_lost(self) -> None:
        """Raises `UnitError` where a rank was given up: those that are left do not wait for it any more."""
        if self.ranks.lost:
            raise UnitError(self.ranks.lost)

    def _name_stuck(self) -> None:
        limit = max(STUCK_AFTER, 5 * self._seconds) if self._seconds else 10 * STUCK_AFTER
        for rank in range(self.ranks.size):
            if rank == self.ranks.rank or not self.store.check([f"at-work/{rank}"]):
                continue
            work = self.store.get(f"at-work/{rank}").decode()
            seen = self._seen.setdefault((rank, work), time.monotonic())  # this clock, whatever the other's shows
            if work and time.monotonic() - seen > limit and rank not in self._named:
                self._named.add(rank)
                log.warning(
                    "rank %d has been at %s for more than %.0f s (the longest unit here took %.0f s): slow or stuck",
                    rank, work, time.monotonic() - seen, self._seconds,
                )  # fmt: skip
            self._give_up_silent(rank, work)

    def _give_up_silent(self, rank: int, work: str) -> None:
        """Give a rank up whose process gives signs of life, but which does nothing any more."""
        progress, now = self.store.add(f"progress/{rank}", 0), time.monotonic()
        if not work or self._moved.get(rank, (-1, now))[0] != progress:
            self._moved[rank] = progress, now
        silent = now - self._moved[rank][1]
        if silent > SILENT_AFTER and self.ranks.watch and not self.ranks.lost:
            why = f"has got nowhere with {work} for {silent:.0f} s"
            threading.Thread(target=self.ranks.watch.give_up, args=(rank, why), daemon=True).start()


def share_of(left: int, *, ranks: int, most: int) -> int:
    """How many of the units that are left a rank takes at a time (guided self-scheduling; Polychronopoulos, 1987)."""
    if ranks == 1:
        return -(-left // -(-left // most))
    return min(most, -(-left // (2 * ranks)))


def unit_name(unit: int, contexts: Sequence[str]) -> str:
    """A unit for messages: its number and its contexts' ids."""
    more = f" and {len(contexts) - 5} more" if len(contexts) > 5 else ""
    return f"unit {unit} (contexts {', '.join(contexts[:5])}{more})"


def one_line(error: BaseException) -> str:
    """An exception as one line for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
