"""What is seen of a sweep at work: on a terminal a table that follows it, and everywhere a line for each run's end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.table import Table
from rich.text import Text

from seal_lightning.commands.sweep.running import Run, time_left
from seal_lightning.progress.screen import Screen, duration
from seal_lightning.text.escaping import visible

MARKS = {"waiting": "·", "running": "▸", "elsewhere": "▸", "finished": "✓", "failed": "✗"}


class Display:
    """Lines and a table on standard error.

    Args:
        title: The first line.
    """

    def __init__(self, title: str) -> None:
        self.screen = Screen()
        self.screen.line(title)
        self._runs: Sequence[Run] = ()
        self._accuracy: dict[str, float] = {}  # of the runs that are finished
        self._jobs = 1
        self.refresh = lambda: None

    @contextmanager
    def watching(self, runs: Sequence[Run], jobs: int) -> Iterator[None]:
        """Within it, the table is there."""
        self._runs, self._jobs = runs, jobs
        for run in runs:
            if run.kept:
                self._note(run)
        if kept := sum(run.kept for run in runs):
            self.screen.line(f"{kept} of {len(runs)} runs are finished already, and kept")
        with self.screen.following(self._table) as self.refresh:
            yield

    def tell(self, run: Run) -> None:
        """Of a run that has ended, or that another process is at."""
        if run.state == "elsewhere":
            self.screen.line(f"{run.name}: waits for another process to end ({run.error.partition(': ')[2]})")
        if run.state == "finished":
            self._note(run)
        if run.ended:
            took = duration(run.seconds)
            said = f"{_figures(run)}, {took}" if run.state == "finished" else f"FAILED after {took}: {run.error}"
            self.screen.line(f"{run.name}: {said}; {self._so_far()}")
        self.refresh()

    def _note(self, run: Run) -> None:
        if rows := run.rows():
            self._accuracy[run.name] = rows[-1].accuracy

    def _so_far(self) -> str:
        ended, left = sum(run.ended for run in self._runs), time_left(self._runs, self._jobs)
        rest = f", about {duration(left)} left" if left and ended < len(self._runs) else ""
        return f"{ended} of {len(self._runs)}{rest}"

    def _table(self) -> Table:
        """A line for each setting, with a mark for each of its runs."""
        table = Table(title=Text(f"runs: {self._so_far()}"), title_justify="left", title_style="")
        for name in ("setting", "runs", "own edits so far", "at work"):
            table.add_column(name)
        settings: dict[str, list[Run]] = {}
        for run in self._runs:
            settings.setdefault(setting_of(run), []).append(run)
        for setting, runs in settings.items():
            at_work = ", ".join(run.name for run in runs if run.at_work)
            marks = " ".join(MARKS[run.state] for run in runs)
            known = [self._accuracy[run.name] for run in runs if run.name in self._accuracy]
            so_far = f"{fmean(known):.3f}" if known else ""
            table.add_row(*(Text(visible(text)) for text in (setting, marks, so_far, at_work)))
        return table


def setting_of(run: Run) -> str:
    """A run's setting as its name has it, without the seed."""
    return run.planned.setting or "all"


def _figures(run: Run) -> str:
    """Its accuracy with own edits at the end, and before training."""
    rows = run.rows()
    if not rows:
        return "finished, without a validation"
    first, last = rows[0], rows[-1]
    before = f", {first.accuracy:.3f} {first.name.removeprefix('edits ')}" if len(rows) > 1 else ""
    return f"own edits {last.accuracy:.3f} {last.name.removeprefix('edits ')}{before}"
