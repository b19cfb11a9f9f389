"""The runs of a sweep at work: some at a time, each a `seal fit` of its own, until all have ended, and what is shown.

An interrupted run resumes from its last checkpoint and journal; a finished one is not started. A failure ends no other
run. If the sweep itself is killed, its runs continue by themselves, and the next sweep waits for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Literal

from rich.table import Table
from rich.text import Text

from seal_lightning.commands.quickstart import ONE_THREAD, Fit, start_fit
from seal_lightning.commands.sweep.grid import Checked, Planned
from seal_lightning.errors import Ended
from seal_lightning.files.ownership import FolderInUse, owning
from seal_lightning.processes.stopping import stopped_on_leaving
from seal_lightning.progress.screen import Screen, duration
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import AccuracyRow, rounds_table
from seal_lightning.text.escaping import visible

State = Literal["waiting", "running", "elsewhere", "finished", "failed"]
PAUSE = 0.5  # seconds between two looks at the runs
MARKS = {"waiting": "·", "running": "▸", "elsewhere": "▸", "finished": "✓", "failed": "✗"}
LOOK = 5.0  # seconds between two looks at a run of another process
STOPPED_WITHIN = 30.0  # seconds that runs have to end once the sweep was asked to


@dataclass
class SweepRun:
    """A run of the sweep, and how far it is.

    Attributes:
        planned: What is run.
        folder: The run folder.
        state: State of the run; `elsewhere` if another process works in its folder.
        kept: Whether an earlier sweep has finished it.
        seconds: Seconds that it has taken in this sweep.
        seconds_before: Seconds that it had taken in earlier sweeps.
        exit_code: Exit code of its process; None before its end.
        error: Its last message, if it failed.
        began: When its process was started, or last looked for, by the monotonic clock.
        fit: Its process.
        slot: Which of the places for runs it has.
    """

    planned: Planned
    folder: Path
    state: State = "waiting"
    kept: bool = False
    seconds: float = 0.0
    seconds_before: float = 0.0
    exit_code: int | None = None
    error: str = ""
    began: float = 0.0
    fit: Fit | None = None
    slot: int = 0

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def setting(self) -> str:
        """Its name without the seed."""
        return self.planned.setting or "all"

    @property
    def seconds_in_all(self) -> float:
        return self.seconds_before + self.seconds

    @property
    def at_work(self) -> bool:
        return self.state in ("running", "elsewhere")

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed")

    @cached_property
    def rows(self) -> list[AccuracyRow]:
        """Of a finished run: accuracy with own edits before training and after each round, if it was validated."""
        validations = read_validations(self.folder)
        rows = rounds_table(validations, resamples=0) if validations else []
        return [row for row in rows if row.name.startswith("edits")]


def is_finished(run: SweepRun, checked: Checked) -> bool:
    """Whether its folder has the table of a finished fit with these settings, written after its `config.yaml`."""
    table, settings = run.folder / "fit.json", run.folder / "config.yaml"
    if run.name not in checked.unchanged or not (table.is_file() and settings.is_file()):
        return False
    return table.stat().st_mtime_ns >= settings.stat().st_mtime_ns


@dataclass(slots=True)
class Workers:
    """Starts the runs and watches them.

    Attributes:
        runs: The runs in the order in which they are started.
        jobs: Runs at a time.
        environments: Environment variables for each place for a run.
        on_change: Called with a run that was started or has ended.
        on_pause: Called from time to time.
    """

    runs: Sequence[SweepRun]
    jobs: int
    environments: Sequence[Mapping[str, str]]
    on_change: Callable[[SweepRun], None]
    on_pause: Callable[[], None] = field(default=lambda: None)

    def work(self) -> None:
        """Run all that are waiting until each has ended. A signal stops them before it passes on."""
        with stopped_on_leaving(self.kill):
            try:
                while not all(run.ended for run in self.runs):
                    free = set(range(self.jobs)) - {run.slot for run in self.runs if run.at_work}
                    waiting = [run for run in self.runs if run.state == "waiting"]
                    for run, slot in zip(waiting, sorted(free), strict=False):
                        run.slot = slot
                        self._start(run)
                    time.sleep(PAUSE)
                    for run in [run for run in self.runs if run.at_work]:
                        self._look_at(run)
                    self.on_pause()
            except (Ended, KeyboardInterrupt):
                self._terminate()
                raise
            finally:
                self.kill()

    def kill(self) -> None:
        """Kill the runs that are still at work."""
        for fit in self._fits():
            fit.stop()

    def _terminate(self) -> None:
        """Let the runs stop by themselves, with everything kept; those that take too long are killed."""
        for fit in self._fits():
            fit.process.terminate()
        deadline = time.monotonic() + STOPPED_WITHIN
        for fit in self._fits():
            try:
                fit.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                fit.stop()

    def _fits(self) -> list[Fit]:
        return [run.fit for run in self.runs if run.fit is not None and run.state == "running"]

    def _start(self, run: SweepRun) -> None:
        run.began = time.monotonic()
        try:
            with owning(run.folder, option=f"{run.folder}"):
                pass
        except FolderInUse as error:
            if run.state != "elsewhere":
                run.state, run.error = "elsewhere", str(error).partition(": wait until")[0]
                self.on_change(run)
            return
        environment = self.environments[run.slot % len(self.environments)]
        run.state, run.error = "running", ""
        options = (*run.planned.options, "--ckpt_path", "last")  # which starts a run without a checkpoint
        run.fit = start_fit(run.folder, *options, config=None, quiet=True, environment=environment)
        self.on_change(run)

    def _look_at(self, run: SweepRun) -> None:
        if run.state == "elsewhere":
            if time.monotonic() - run.began > LOOK:
                self._start(run)
            return
        assert run.fit is not None
        if (code := run.fit.process.poll()) is None:
            return
        run.seconds += time.monotonic() - run.began
        run.exit_code, run.state = code, "failed" if code else "finished"
        run.error = last_line(run.folder / "fit.log", code) if code else ""
        self.on_change(run)


def environments(jobs: int, checked: Checked) -> list[dict[str, str]]:
    """Environment variables of each place: a single thread if several runs share the CPUs, or GPUs of its own."""
    if jobs == 1:
        return [{}]
    if not checked.gpus:
        return [{name: os.environ.get(name, count) for name, count in ONE_THREAD.items()}]
    each = checked.gpus_each
    shares = [checked.gpus[start : start + each] for start in range(0, len(checked.gpus) - each + 1, each)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares] or [{}]


def time_left(runs: Iterable[SweepRun], jobs: int) -> float | None:
    """Seconds until all have ended, estimated from finished runs of this sweep; None without any."""
    runs = list(runs)
    done = [run.seconds for run in runs if run.state == "finished" and not run.kept]
    if not done:
        return None
    usual, now = sum(done) / len(done), time.monotonic()
    open_runs = [max(0.0, usual - (now - run.began)) if run.at_work else usual for run in runs if not run.ended]
    return max(sum(open_runs) / jobs, max(open_runs, default=0.0))


def last_line(log: Path, code: int) -> str:
    """The last message of a failed run."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix("seal: ") for line in lines if line.startswith("seal: ")]
    return (ours or lines or ["it said nothing"])[-1]


# -- what is shown -----------------------------------------------------------------------------------------------------


@dataclass
class Display:
    """Lines and a table on a screen, about runs of which `jobs` are at work at a time."""

    screen: Screen
    runs: Sequence[SweepRun]
    jobs: int
    refresh: Callable[[], None] = field(default=lambda: None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show the table within the block."""
        if kept := sum(run.kept for run in self.runs):
            self.screen.line(f"{kept} of {len(self.runs)} runs are already finished and kept")
        with self.screen.following(self._table) as self.refresh:
            yield

    def tell(self, run: SweepRun) -> None:
        """Say that a run has ended, or that another process works on it."""
        if run.state == "elsewhere":
            self.screen.line(f"{run.name}: waits for another process to end ({run.error.partition(': ')[2]})")
        if run.ended:
            took = duration(run.seconds)
            said = f"{_figures(run)}, {took}" if run.state == "finished" else f"FAILED after {took}: {run.error}"
            self.screen.line(f"{run.name}: {said}; {self._so_far()}")
        self.refresh()

    def _so_far(self) -> str:
        ended, left = sum(run.ended for run in self.runs), time_left(self.runs, self.jobs)
        rest = f", about {duration(left)} left" if left and ended < len(self.runs) else ""
        return f"{ended} of {len(self.runs)}{rest}"

    def _table(self) -> Table:
        """A row for each setting, with a mark for each of its runs."""
        table = Table(title=Text(f"runs: {self._so_far()}"), title_justify="left", title_style="")
        for name in ("setting", "runs", "own edits so far", "at work"):
            table.add_column(name)
        settings: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            settings.setdefault(run.setting, []).append(run)
        for setting, runs in settings.items():
            at_work = ", ".join(run.name for run in runs if run.at_work)
            marks = " ".join(MARKS[run.state] for run in runs)
            known = [run.rows[-1].accuracy for run in runs if run.state == "finished" and run.rows]
            so_far = f"{fmean(known):.3f}" if known else ""
            table.add_row(*(Text(visible(text)) for text in (setting, marks, so_far, at_work)))
        return table


def _figures(run: SweepRun) -> str:
    """Its accuracy with own edits, at the end and before training."""
    if not run.rows:
        return "finished, without a validation"
    first, last = run.rows[0], run.rows[-1]
    before = f", {first.accuracy:.3f} {first.name.removeprefix('edits ')}" if len(run.rows) > 1 else ""
    return f"own edits {last.accuracy:.3f} {last.name.removeprefix('edits ')}{before}"
