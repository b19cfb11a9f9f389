"""What a sweep shows at work: a line at each run's end, and on a terminal a table that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.table import Table
from rich.text import Text

from seal_lightning.commands.sweep.running import SweepRun, time_left
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
        self._runs: Sequence[SweepRun] = ()
        self._accuracy: dict[str, float] = {}  # by name of a finished run
        self._jobs = 1
        self.refresh = lambda: None

    @contextmanager
    def watching(self, runs: Sequence[SweepRun], jobs: int) -> Iterator[None]:
        """Show the table within the block."""
        self._runs, self._jobs = runs, jobs
        for run in runs:
            if run.kept:
                self._note(run)
        if kept := sum(run.kept for run in runs):
            self.screen.line(f"{kept} of {len(runs)} runs are already finished and kept")
        with self.screen.following(self._table) as self.refresh:
            yield

    def tell(self, run: SweepRun) -> None:
        """Say that a run has ended, or that another process works on it."""
        if run.state == "elsewhere":
            self.screen.line(f"{run.name}: waits for another process to end ({run.error.partition(': ')[2]})")
        if run.state == "finished":
            self._note(run)
        if run.ended:
            took = duration(run.seconds)
            said = f"{_figures(run)}, {took}" if run.state == "finished" else f"FAILED after {took}: {run.error}"
            self.screen.line(f"{run.name}: {said}; {self._so_far()}")
        self.refresh()

    def _note(self, run: SweepRun) -> None:
        if rows := run.rows():
            self._accuracy[run.name] = rows[-1].accuracy

    def _so_far(self) -> str:
        ended, left = sum(run.ended for run in self._runs), time_left(self._runs, self._jobs)
        rest = f", about {duration(left)} left" if left and ended < len(self._runs) else ""
        return f"{ended} of {len(self._runs)}{rest}"

    def _table(self) -> Table:
        """A row for each setting, with a mark for each of its runs."""
        table = Table(title=Text(f"runs: {self._so_far()}"), title_justify="left", title_style="")
        for name in ("setting", "runs", "own edits so far", "at work"):
            table.add_column(name)
        settings: dict[str, list[SweepRun]] = {}
        for run in self._runs:
            settings.setdefault(setting_of(run), []).append(run)
        for setting, runs in settings.items():
            at_work = ", ".join(run.name for run in runs if run.at_work)
            marks = " ".join(MARKS[run.state] for run in runs)
            known = [self._accuracy[run.name] for run in runs if run.name in self._accuracy]
            so_far = f"{fmean(known):.3f}" if known else ""
            table.add_row(*(Text(visible(text)) for text in (setting, marks, so_far, at_work)))
        return table


def setting_of(run: SweepRun) -> str:
    """A run's name without the seed."""
    return run.planned.setting or "all"


def _figures(run: SweepRun) -> str:
    """Its accuracy with own edits, at the end and before training."""
    rows = run.rows()
    if not rows:
        return "finished, without a validation"
    first, last = rows[0], rows[-1]
    before = f", {first.accuracy:.3f} {first.name.removeprefix('edits ')}" if len(rows) > 1 else ""
    return f"own edits {last.accuracy:.3f} {last.name.removeprefix('edits ')}{before}"
