"""Signals that ask a run to stop: they are noted, and the loops stop where nothing is lost.

A unit of work or an optimizer step may take minutes, so a second Ctrl-C interrupts at once. Whether all ranks stop is
decided together (`ranks.py`), since a signal may reach one of them only.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seal_lightning.errors import Stopped

log = logging.getLogger(__name__)


class StopSignals:
    """Notes SIGTERM, SIGINT and, where a scheduler announces preemption by one, its signal."""

    def __init__(self) -> None:
        self.received = 0
        self._interrupted = False

    @contextmanager
    def noted(self, *, preemption: int | None = None) -> Iterator[None]:
        """Handle the signals in this block; the handlers from before are put back at its end.

        Args:
            preemption: A further signal that asks the run to stop (SLURM: the one it sends before the time is up).
        """
        self.received, self._interrupted = 0, False
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        numbers = {signal.SIGTERM, signal.SIGINT} | ({preemption} if preemption else set())
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def check(self) -> None:
        """Raises `Stopped` where a signal was noted."""
        if self.received:
            raise Stopped(self.received)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.received = self.received or number
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        log.warning("%s: stopping at the end of this unit or step%s", signal.Signals(number).name, again)


def requeue() -> None:
    """Ask SLURM to run this job again; does nothing outside a job."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if job is None:
        return
    name = f"{job}_{task}" if task and os.environ.get("SLURM_ARRAY_JOB_ID") else job
    try:
        subprocess.run(["scontrol", "requeue", name], check=True)
        log.warning("job %s is requeued and will resume by itself", name)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("job %s could not be requeued (%s); start it again with --ckpt_path last", name, error)
