"""Signals that ask a command to stop.

During a run's work they are noted, and the loops stop where nothing is lost (`StopSignals`). Elsewhere a command ends
where it stands (`Ending`): while it loads its libraries and reads its options at once, since there is nothing to lose
and some libraries swallow exceptions then; later by an exception, so that files are put in order and processes stopped.
A signal that comes again goes one step further: noted, an exception, the end of the process.

SIGHUP, which a closing terminal sends, is SIGTERM. What was ignored at the start stays ignored: SIGHUP under nohup,
Ctrl-C in the background of a script. Python runs handlers in the main thread and between its own instructions; where
that waits in a call into another language (for the other ranks, for a disk), a thread beside it ends the process. Only
a call that lets no thread run, such as a regular expression, is over before anything is noticed.
Whether all ranks stop is decided together (`ranks.py`), since a signal may reach one of them only.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from seal_lightning.errors import Ended, Stopped

log = logging.getLogger(__name__)

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
HANDLED_WITHIN = 3.0  # seconds after which the main thread counts as stuck
Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None  # what Python's signal.signal takes
AGAIN = 2.0  # seconds after which a signal counts as another one: ranks get it from the terminal and from each other


class Ending:
    """The handler of a command outside of a run's work.

    Args:
        last_words: Says in one line that a signal has ended the command, without an exception to carry it.

    Attributes:
        may_leave: Whether the process may be left from within the handler.
        nothing_to_lose: Whether it is left at the first signal; until the work begins, and after it.
        received: The signal that was received, or 0.
        at: When, by the monotonic clock.
        stops: Called before the process is left so, such as for the processes that it has started.
    """

    def __init__(self, last_words: Callable[[int], None], *, may_leave: bool) -> None:
        self.last_words = last_words
        self.may_leave = may_leave
        self.nothing_to_lose = may_leave
        self.received = 0
        self.stops: list[Callable[[], None]] = []
        self.at = 0.0

    def leave(self, number: int) -> None:
        """End the process, whatever it is at."""
        for stop in self.stops:
            stop()
        self.last_words(number)
        os._exit(128 + number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        number = _meant(number)
        again = bool(self.received) and time.monotonic() - self.at > AGAIN
        if self.may_leave and (self.nothing_to_lose or again):
            self.leave(number)
        if self.received and not again:
            return
        self.received, self.at = number, time.monotonic()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Ended(number)


@contextmanager
def ended_by_signals(last_words: Callable[[int], None], *, own_process: bool) -> Iterator[None]:
    """Let signals end this block.

    Args:
        last_words: Says in one line that the signal of this number ended the command.
        own_process: The process is this command's: it may be left from within a handler, and what is left to do after
            the block is its end. Else the handlers from before are put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    ending = Ending(last_words, may_leave=own_process)
    before = _handle(NUMBERS, ending)
    if own_process:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(ending, reader), name="seal-signals", daemon=True).start()
    try:
        yield
    finally:
        if own_process:
            ending.nothing_to_lose = True
            # Python would give them back to the system before it is done
            atexit.register(_put_back, dict.fromkeys(before, signal.SIG_IGN))
        else:
            _put_back(before)


def _watch(ending: Ending, reader: int) -> None:
    """In a thread: end the process where the main thread does not get to handle a signal.

    During a run's work that takes a second signal, since a first is only noted there.
    """
    waits_since = 0.0
    while arrived := os.read(reader, 1):
        number, now = arrived[0], time.monotonic()
        handler = signal.getsignal(number) if number in NUMBERS else None
        if handler is ending:
            again = bool(ending.received) and now - ending.at > AGAIN
            time.sleep(HANDLED_WITHIN)
            if signal.getsignal(number) is ending and (again or not ending.received):
                ending.leave(_meant(number))
        elif isinstance(signals := getattr(handler, "__self__", None), StopSignals) and not signals.received:
            if waits_since and now - waits_since > AGAIN:
                ending.leave(_meant(number))
            time.sleep(0.1)  # a main thread at work has noted it by then
            waits_since = 0.0 if signals.received else waits_since or now


def current_ending() -> Ending | None:
    """The handler of the command outside of its run's work, for those who start processes; None without a command."""
    return next((handler for handler in map(signal.getsignal, NUMBERS) if isinstance(handler, Ending)), None)


@contextmanager
def stopped_on_leaving(stop: Callable[[], None]) -> Iterator[None]:
    """In this block `stop` is called where a signal ends the process without an exception."""
    ending = current_ending()
    if ending is None:
        yield
        return
    ending.stops.append(stop)
    try:
        yield
    finally:
        ending.stops.remove(stop)


def work_begins() -> None:
    """From here on there is something to lose or to put in order: a first signal does not end the process at once."""
    if ending := current_ending():
        ending.nothing_to_lose = False


EARLY = 1000  # beside the numbers of signals: a run ends early because its flags or callbacks ask for it


class StopSignals:
    """Notes SIGTERM, SIGHUP, SIGINT and, where a scheduler announces preemption by one, its signal."""

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._before: dict[int, Handler] = {}
        self._preemption: int | None = None

    @contextmanager
    def noted(self, *, preemption: int | None = None) -> Iterator[None]:
        """Handle the signals in this block; the handlers from before are put back at its end.

        Args:
            preemption: A further signal that asks the run to stop (SLURM: the one it sends before the time is up).

        Raises:
            Ended: A signal came before, and a library swallowed what it raised; or it came again.
        """
        self.received, self._preemption = 0, preemption
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        if (ending := current_ending()) and ending.received:
            raise Ended(ending.received)
        self._before = _handle([*NUMBERS, *([preemption] if preemption else [])], self._note)
        try:
            yield
        finally:
            _put_back(self._before)

    def check(self) -> None:
        """Raises `Stopped` where a signal was noted."""
        if self.received:
            raise Stopped(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        meant = number if number == self._preemption else _meant(number)
        if self.received:
            self._again(number, meant, frame)
            return
        self.received, self._at = meant, time.monotonic()
        again = "; Ctrl-C again stops at once" if meant == signal.SIGINT else "; again, it stops at once"
        log.warning("%s: stopping at the end of this unit or step%s", signal.Signals(number).name, again)

    def _again(self, number: int, meant: int, frame: FrameType | None) -> None:
        """Stop at once, as the handler from before does; but the same signal from two sides is one."""
        if meant == self._preemption or (meant != signal.SIGINT and time.monotonic() - self._at < AGAIN):
            return
        before = self._before.get(number)
        if callable(before):
            before(number, frame)
        raise KeyboardInterrupt if meant == signal.SIGINT else Ended(meant)


def _handle(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> dict[int, Handler]:
    """Handle those signals that are not ignored; returns the handlers from before."""
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in handled}


def _meant(number: int) -> int:
    return signal.SIGTERM if number == signal.SIGHUP else number


def _put_back(handlers: Mapping[int, Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


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
