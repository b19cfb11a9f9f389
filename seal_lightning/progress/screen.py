"""What a long command shows outside a trainer: progress bars on a terminal, periodic status lines elsewhere.

Everything goes to stderr, so that stdout holds results only. This is the one module that draws with rich, whose colours
and bars pass `streams` unchanged: foreign text is made visible here, before it is put into them.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from seal_lightning.processes.streams import Stream
from seal_lightning.progress.clock import Progress as PhaseProgress
from seal_lightning.text.escaping import single_line

Advance = Callable[[int], None]


class Screen:
    """Bars and lines.

    Args:
        every_seconds: Pause between status lines where there is no terminal.
        console: Where to draw; standard error by default.
    """

    def __init__(self, *, every_seconds: float = 30.0, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)
        self.every_seconds = every_seconds
        self._bars: Bars | None = None

    def line(self, text: str, *, style: str = "") -> None:
        """One line that stays, above the bars; a style such as `bold red` shows on a terminal alone."""
        print_line(self.console, text, style=style)

    @contextmanager
    def bar(self, label: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """Within it, call the yielded function with how many of `total` were finished since the last call.

        A bar within another shows below it; its status lines are left to the outer one.
        """
        outermost, bars = self._bars is None, self._bars or progress_bars(self.console)
        if outermost:
            bars.disable = not self.console.is_terminal
            bars.start()
            self._bars = bars
        task = bars.add_task(label, total=total, completed=done)
        pace = Pace(total, done=done, every_seconds=self.every_seconds)
        finished = done

        def advance(count: int) -> None:
            nonlocal finished
            finished += count
            bars.update(task, completed=finished)
            if outermost and not self.console.is_terminal and (left := pace.left(finished)):
                self.line(f"{label}: {finished} of {total}, {left}")

        try:
            yield advance
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    @contextmanager
    def following(self, draw: Callable[[], RenderableType]) -> Iterator[Callable[[], None]]:
        """On a terminal, what `draw` returns, below the lines; drawn anew when the yielded function is called."""
        if not self.console.is_terminal:
            yield lambda: None
            return
        live = Live(get_renderable=draw, console=self.console, auto_refresh=False, redirect_stdout=False,
                    redirect_stderr=False, transient=True)  # fmt: skip
        with live:
            yield live.refresh

    @contextmanager
    def phases(self) -> Iterator[Callable[[PhaseProgress], None]]:
        """A bar below the others that follows the phases of a unit of work, for `EStep.run(report=...)`."""
        bars = self._bars
        assert bars is not None, "phases() belongs into a bar()"
        task = bars.add_task("", total=None)

        def report(progress: PhaseProgress) -> None:
            bars.update(task, description=f"  {progress.phase}", completed=progress.done, total=progress.total)

        try:
            yield report
        finally:
            bars.remove_task(task)


class Notes(Screen):
    """Keeps its lines for another process to show, and draws nothing.

    Attributes:
        lines: The lines.
    """

    def __init__(self) -> None:
        super().__init__(every_seconds=math.inf, console=Console(file=io.StringIO()))
        self.lines: list[str] = []

    def line(self, text: str, *, style: str = "") -> None:
        self.lines.append(text)


class Pace:
    """When to say again how far some work is, and how long the rest of it takes.

    Args:
        total: Parts of the work.
        done: Parts that were finished before, which do not count for the speed.
        every_seconds: Pause between two status lines.
    """

    def __init__(self, total: int, *, done: int, every_seconds: float) -> None:
        self.total, self.done, self.every_seconds = total, done, every_seconds
        self._started = self._said_at = self._worked_at = time.monotonic()
        self._said = done

    def left(self, finished: int) -> str:
        """`about 3 min 05 s left`, where it is time for a line and there is something new to say; else empty."""
        now = time.monotonic()
        if finished <= self._said or now - self._said_at < self.every_seconds:
            return ""
        self._said, self._said_at = finished, now
        seconds = (self.total - finished) * (now - self._started) / (finished - self.done)
        return f"about {duration(seconds)} left"

    def is_silent(self) -> bool:
        """Whether it is time to say what is being worked on, since nothing else was said; now that counts as said."""
        now = time.monotonic()
        silent = now - max(self._said_at, self._worked_at) >= max(self.every_seconds, 1.0)
        self._worked_at = now if silent else self._worked_at
        return silent

    @property
    def spent(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started


class Bars(Progress):
    """Bars whose labels are plain text, and above which other output is as harmless as without them."""

    def start(self) -> None:
        super().start()
        for name in ("stdout", "stderr"):  # rich has put itself there, and would take foreign escapes for its own
            if isinstance(stream := getattr(sys, name), FileProxy):
                setattr(sys, name, Stream(stream))  # type: ignore[arg-type]

    def add_task(self, description: str, *args: Any, **options: Any) -> TaskID:
        return super().add_task(single_line(description), *args, **options)

    def update(self, task_id: TaskID, *, description: str | None = None, **options: Any) -> None:
        label = None if description is None else single_line(description)
        super().update(task_id, description=label, **options)


def plain_console(*, stderr: bool = False) -> Console:
    """Where bars and lines are drawn: standard output or error, and nothing in a text is taken for markup."""
    stream = sys.stderr if stderr else sys.stdout
    file = cast(Any, stream.trusted) if isinstance(stream, Stream) else None
    return Console(file=file, stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def redrawn(console: Console, first: RenderableType) -> Live:
    """What is drawn over itself when it is updated, and is gone at the end."""
    return Live(first, console=console, auto_refresh=False, transient=True)


def print_line(console: Console, text: str, *, style: str = "") -> None:
    """One line, whatever is in the text."""
    console.print(single_line(text), style=style or None, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_alarm(console: Console, text: str) -> None:
    """One line that must not be overlooked: in red where that can be shown."""
    console.print(Text(single_line(text), style="bold red"), emoji=False, soft_wrap=True)


def progress_bars(console: Console, *columns: ProgressColumn) -> Bars:
    """Bars with counts, the time spent and the time left, or with other columns."""
    usual = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bars(*(columns or usual), console=console, transient=True)


@contextmanager
def watched(label: str, *columns: ProgressColumn, total: int | None = None) -> Iterator[Advance]:
    """A bar where somebody watches, nothing elsewhere; call the yielded function with how many more are finished."""
    bars = progress_bars(plain_console(stderr=True), *columns)
    bars.disable = not bars.console.is_terminal
    with bars:
        task = bars.add_task(label, total=total)
        yield lambda count: bars.advance(task, count)


def duration(seconds: float) -> str:
    """Seconds for a reader: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
