"""The processes that Lightning starts for the other ranks of a run on this machine, and how they end with this one.

Lightning's own watchdog kills this process without a word as soon as one of them ends with another code than 0, as
stopped ones do. Here they are taken out of its hands: they are left to end by themselves, those that hang are killed,
and where this process waits for one that is gone, it ends with one line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from seal_lightning.errors import RESUME, Ended
from seal_lightning.processes.stopping import Ending, current_ending, stopped_on_leaving
from seal_lightning.processes.streams import last_words

NOTICED_WITHIN = 5.0  # seconds in which this process notices by itself that another rank has ended
STOPPED_WITHIN = 120.0  # the same of one that was asked to stop during the run's work
ENDED_WITHIN = 20.0  # seconds that they have to end after this one has failed


class Launched:
    """The started processes, from rank 1 on.

    Attributes:
        working: Whether the run's work is going on: ranks that stop have told this one, which may have more to save.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.working = False
        self._over = threading.Event()

    def watch(self, launcher: object) -> None:
        """Watch them in place of Lightning, once its launcher has started them; but not in a process of others."""
        if (ending := current_ending()) and ending.may_leave and self._take(launcher):
            self._over.clear()
            threading.Thread(target=self._watch, args=(ending,), name="seal-ranks", daemon=True).start()

    @contextmanager
    def ending_together(self, launcher: object) -> Iterator[None]:
        """After a failure in this block let them end by themselves, and kill those that hang."""
        try:
            with stopped_on_leaving(self.kill):
                yield
        except BaseException as error:
            self._over.set()
            self._take(launcher)
            if isinstance(error, Ended | KeyboardInterrupt):  # they know nothing of it, and wait for this process
                for process in self.processes:
                    process.terminate()
            deadline = time.monotonic() + ENDED_WITHIN
            for process in self.processes:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
            raise
        finally:
            self._over.set()

    def _take(self, launcher: object) -> bool:
        """Whether there are new ones, which are out of Lightning's hands now."""
        launched = getattr(launcher, "procs", [])
        self.processes += launched
        are_new = bool(launched)
        launched.clear()
        return are_new

    def kill(self) -> None:
        """End them at once, also those that stand still."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _watch(self, ending: Ending) -> None:
        """In a thread: end this process where a rank has failed and it does not notice."""
        while not self._over.wait(0.5):
            failed = [(rank, code) for rank, process in enumerate(self.processes, start=1) if (code := process.poll())]
            if not failed:
                continue
            rank, code = failed[0]
            stopped = code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
            if self._over.wait(STOPPED_WITHIN if stopped and self.working else NOTICED_WITHIN):
                return
            if stopped:
                ending.leave(code - 128)
            self.kill()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            text = f"rank {rank} {how}, and this one waited for it; {RESUME}"
            last_words(f"seal: {text}")
            os._exit(1)
