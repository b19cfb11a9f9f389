"""What a long command shows outside a trainer: bars where somebody watches, else a status line from time to time.

Everything goes to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seal_lightning.phases import Progress as PhaseProgress

Advance = Callable[[int], None]


class Screen:
    """Bars and lines.

    Args:
        every_seconds: Between status lines where there is no terminal.
        console: Where to; standard error.
    """

    def __init__(self, *, every_seconds: float = 30.0, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.every_seconds = every_seconds
        self._bars: Progress | None = None

    def line(self, text: str) -> None:
        """One line that stays, above the bars."""
        (self._bars.console if self._bars else self.console).print(text, markup=False)

    @contextmanager
    def bar(self, label: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """Within it, call the yielded function with how many of `total` were finished since the last call.

        A bar within another shows below it; its status lines are left to the outer one.
        """
        outermost = self._bars is None
        if outermost:
            self._bars = progress_bars(self.console)
            self._bars.disable = not self.console.is_terminal
            self._bars.start()
        assert self._bars is not None
        task = self._bars.add_task(label, total=total, completed=done)
        started = printed = time.monotonic()
        fresh = 0

        def advance(count: int) -> None:
            nonlocal fresh, printed
            assert self._bars is not None
            fresh += count
            self._bars.update(task, completed=done + fresh)
            now = time.monotonic()
            if outermost and not self.console.is_terminal and fresh and now - printed >= self.every_seconds:
                printed = now
                left = (total - done - fresh) * (now - started) / fresh
                self.line(f"{label}: {done + fresh} of {total}, about {duration(left)} left")

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()
                self._bars = None

    @contextmanager
    def phases(self) -> Iterator[Callable[[PhaseProgress], None]]:
        """A bar below the others that follows the phases of a unit of work, for `EStep.run(report=...)`."""
        assert self._bars is not None, "phases() belongs into a bar()"
        task = self._bars.add_task("", total=None)

        def report(progress: PhaseProgress) -> None:
            assert self._bars is not None
            self._bars.update(task, description=f"  {progress.phase}", completed=progress.done, total=progress.total)

        try:
            yield report
        finally:
            self._bars.remove_task(task)


def progress_bars(console: Console) -> Progress:
    """Bars with counts, the time spent and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def duration(seconds: float) -> str:
    """Seconds for a reader: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
