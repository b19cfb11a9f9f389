"""Signs of life between the processes of a run: one that stands still is named and given up on.

A process that was stopped, or whose node is dead, answers nobody, and those that wait for it in a collective cannot be
interrupted. So every rank gives a sign from a thread of its own, counts the time without one from each other rank, and
ends the process where the main thread cannot end by itself. Time is counted in turns of the watching thread, not by the
clock: where the whole run was suspended, nobody is missed when it goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from seal_lightning.errors import RESUME

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds without a sign of life
PATIENCE_TO_STOP = 60.0  # the same once the run was asked to stop
GRACE = 20.0  # for the main thread to end by itself


class Watch:
    """Watches the other ranks of a run.

    Args:
        store: The store that all ranks share; lives in rank 0.
        run: The number of the run, the same on all ranks: the store outlives a trainer.
        rank: This rank.
        size: The number of ranks.
        patience: Seconds without a sign of life after which a rank is given up.
        on_end: Called with the reason before this process is ended from outside of its main thread.
        end: Ends this process.

    Attributes:
        lost: Which rank was given up, and why; "" while all are there.
    """

    def __init__(
        self,
        store: Store,
        *,
        run: int,
        rank: int,
        size: int,
        patience: float,
        on_end: Callable[[str], None] = lambda reason: None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        clone = getattr(store, "clone", lambda: store)()  # the main thread may wait within its own
        self._store = PrefixStore(f"seal/run-{run}/signs-of-life", clone)
        self.rank, self.size, self.patience = rank, size, patience
        self.lost = ""
        self._on_end, self._end = on_end, end
        self._stop: Callable[[], int] = lambda: 0
        self._done = threading.Event()
        self._turns = 0  # of the thread that talks to the store: it waits where rank 0 stands still
        self._others = [other for other in range(size) if other != rank]
        # the last sign of each, and the seconds since: from the start on, as one may be gone before its first
        self._seen: dict[int, tuple[bytes, float]] = dict.fromkeys(self._others, (b"", 0.0))
        self._names = {other: f"rank {other}" for other in range(size)}

    @property
    def turn(self) -> float:
        """Seconds between two signs."""
        return min(5.0, self.patience / 10)

    def start(self, stop: Callable[[], int] = lambda: 0) -> None:
        """Begin to give signs and to look for those of others.

        Args:
            stop: Not 0 once the run was asked to stop: whoever gives no sign is then waited for less long.
        """
        self._stop = stop
        self._store.set(f"name/{self.rank}", f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})")
        for work in (self._talk, self._watch):
            threading.Thread(target=work, daemon=True, name="signs of life").start()

    def stop(self) -> None:
        """This rank leaves in good order; nobody is to miss it."""
        if not self._done.is_set():
            self._done.set()
            if not self.lost:
                self._store.set(f"gone/{self.rank}", "")

    def give_up(self, rank: int, why: str) -> None:
        """Give a rank up: the main thread is to end by itself, or this process is ended."""
        if self.lost or self._done.is_set():
            return
        self.lost = f"{self._names[rank]} {why}, it is given up; {RESUME} and as many or other processes"
        log.error("%s", self.lost)
        if not self._done.wait(GRACE):
            self._on_end(self.lost)
            self._end(1)

    # -- the two threads ---------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Give signs, and collect those of the others."""
        try:
            while not self._done.is_set():
                self._turns += 1
                self._store.set(f"sign/{self.rank}", str(self._turns))
                for other in self._others:
                    self._look_at(other)
                self._done.wait(self.turn)
        except RuntimeError as error:  # rank 0 is gone, and the store with it: the main thread finds out too
            log.debug("no signs of life any more: %s", error)

    def _look_at(self, other: int) -> None:
        if self._store.check([f"gone/{other}"]):
            self._seen.pop(other, None)
        elif self._store.check([f"sign/{other}"]):
            sign = self._store.get(f"sign/{other}")
            if self._names[other] == f"rank {other}":
                self._names[other] = self._store.get(f"name/{other}").decode()
            if self._seen.get(other, (b"", 0.0))[0] != sign:
                self._seen[other] = sign, 0.0

    def _watch(self) -> None:
        """Count the time without a sign."""
        talked, mute = 0, 0.0  # this rank's own turns, and for how long there was none
        while not self._done.wait(self.turn):
            mute = 0.0 if self._turns != talked else mute + self.turn
            talked = self._turns
            limit = min(self.patience, PATIENCE_TO_STOP) if self._stop() else self.patience
            for other, (sign, silent) in list(self._seen.items()):
                if mute and other:  # the store is silent, so nothing is known of others
                    continue
                silent += self.turn
                if self._seen.get(other, (b"", 0.0))[0] == sign:
                    self._seen[other] = sign, silent
                if silent > limit:
                    self.give_up(other, f"has given no sign of life for {silent:.0f} s")
