"""The runs of a sweep at work: some at a time, each a `seal fit` of its own, until all have ended.

A run that was interrupted goes on from its last checkpoint and journal; one that is finished is not started. A failure
ends no other run. Where the sweep itself is killed, its runs go on by themselves: the next sweep waits for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seal_lightning.commands.quickstart import ONE_THREAD, Fit, start_fit
from seal_lightning.commands.sweep.checking import Checked
from seal_lightning.commands.sweep.grid import Planned
from seal_lightning.errors import Ended
from seal_lightning.files.ownership import FolderInUse, owning
from seal_lightning.processes.stopping import stopped_on_leaving
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import AccuracyRow, rounds_table

State = Literal["waiting", "running", "elsewhere", "finished", "failed"]
PAUSE = 0.5  # seconds between two looks at the runs
LOOK = 5.0  # the same at a run that another process is at
STOPPED_WITHIN = 30.0  # seconds that runs have to end after the sweep was asked to


@dataclass(slots=True)
class Run:
    """A run of the sweep and how it fares.

    Attributes:
        planned: What is to be run.
        folder: Where.
        state: `elsewhere` where another process works in its folder.
        kept: Whether an earlier sweep has finished it.
        seconds: It has taken in this sweep.
        seconds_before: It had taken in earlier ones that were stopped or had failed, or that finished it.
        exit_code: Of its process; None where none has ended.
        error: What it said last, where it failed.
        began: When its process was started, or looked for, by the monotonic clock.
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
    def seconds_in_all(self) -> float:
        return self.seconds_before + self.seconds

    @property
    def at_work(self) -> bool:
        return self.state in ("running", "elsewhere")

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "failed")

    def rows(self) -> list[AccuracyRow]:
        """Its accuracy with own edits, before training and after each round; none without a validation."""
        validations = read_validations(self.folder)
        rows = rounds_table(validations, resamples=0) if validations else []
        return [row for row in rows if row.name.startswith("edits")]


def is_finished(run: Run, checked: Checked) -> bool:
    """Whether its folder has the last table of a fit with these settings; `config.yaml` is written at a fit's start."""
    table, settings = run.folder / "fit.json", run.folder / "config.yaml"
    if run.name not in checked.unchanged or not (table.is_file() and settings.is_file()):
        return False
    return table.stat().st_mtime_ns >= settings.stat().st_mtime_ns


@dataclass(slots=True)
class Workers:
    """Starts the runs and watches them.

    Attributes:
        runs: In the order in which they are started.
        jobs: How many at a time.
        environments: Variables of the environment, by place for a run.
        on_change: Called after each run that was started or has ended, with it.
        on_pause: Called from time to time.
    """

    runs: Sequence[Run]
    jobs: int
    environments: Sequence[Mapping[str, str]]
    on_change: Callable[[Run], None]
    on_pause: Callable[[], None] = field(default=lambda: None)

    def work(self) -> None:
        """Run all that are waiting; returns when each has ended. A signal stops them before it goes on its way."""
        with stopped_on_leaving(self.kill):
            try:
                while not all(run.ended for run in self.runs):
                    self._start_some()
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
        """End what is still at work, at once."""
        for fit in self._fits():
            fit.stop()

    def _terminate(self) -> None:
        """Let the runs end by themselves, with everything kept; those that take too long are killed."""
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

    def _start_some(self) -> None:
        taken = {run.slot for run in self.runs if run.at_work}
        free = [slot for slot in range(self.jobs) if slot not in taken]
        for run, slot in zip([run for run in self.runs if run.state == "waiting"], free, strict=False):
            run.slot = slot
            self._start(run)

    def _start(self, run: Run) -> None:
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
        options = (*run.planned.options, "--ckpt_path", "last")  # which begins where there is none
        run.fit = start_fit(run.folder, *options, config=None, quiet=True, environment=environment)
        self.on_change(run)

    def _look_at(self, run: Run) -> None:
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
    """Variables of each place for a run: one thread where several run at a time on CPUs, GPUs of its own on GPUs."""
    if jobs == 1:
        return [{}]
    if not checked.gpus:
        return [{name: os.environ.get(name, count) for name, count in ONE_THREAD.items()}]
    each = checked.gpus_each
    shares = [checked.gpus[start : start + each] for start in range(0, len(checked.gpus) - each + 1, each)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares] or [{}]


def time_left(runs: Iterable[Run], jobs: int) -> float | None:
    """Seconds until all have ended, by those that this sweep has run; None where it has run none."""
    runs = list(runs)
    done = [run.seconds for run in runs if run.state == "finished" and not run.kept]
    if not done:
        return None
    usual, now = sum(done) / len(done), time.monotonic()
    open_runs = [max(0.0, usual - (now - run.began)) if run.at_work else usual for run in runs if not run.ended]
    return max(sum(open_runs) / jobs, max(open_runs, default=0.0))


def last_line(log: Path, code: int) -> str:
    """What a run that failed said last."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix("seal: ") for line in lines if line.startswith("seal: ")]
    return (ours or lines or ["it said nothing"])[-1]
