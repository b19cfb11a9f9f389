"""`seal quickstart`: SEAL in the lab beside its control, and what training changed, side by side.

It starts two `seal fit` processes with one thread each, which is how tiny models use two cores best: the run itself,
and one that keeps self-edits at random. Everything shown at the end is read from the two run folders.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from seal_lightning.errors import ConfigError, SealError, reason_of
from seal_lightning.processes.stopping import stopped_on_leaving
from seal_lightning.progress.screen import plain_console
from seal_lightning.records.journal import read_validations
from seal_lightning.report.picture import save_picture
from seal_lightning.report.rounds import passage_of, typical_pair
from seal_lightning.results.accuracy import AccuracyRow, rounds_table
from seal_lightning.text.escaping import visible
from seal_lightning.types import Rollout

CONFIG = Path(str(files("seal_lightning.configs") / "quickstart.yaml"))  # configs/ in the repository
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # environment variables
# `python -m` looks in the working folder first, where a file called json.py would be taken for the library's.
NO_MODULES_HERE = {"PYTHONSAFEPATH": "1"}
CONTROL = ("--filter", "seal_lightning.callbacks.RandomFilter")
INTRODUCTION = """\
SEAL in the lab. A model of 0.9 million parameters reads passages about towns it has never heard of and writes its own
training data. A temporary LoRA is trained on that and asked about the passage without seeing it. The best self-edits of
each passage teach the model to write better ones. A control that keeps self-edits at random runs beside it.
"""
LAST_WORDS = """\
{seconds:.0f} s in all; every edit and answer is in {run}/journal, the best of each round in {run}/tables
next, a harder world:  seal quickstart --data.difficulty hard
or an ablation:        seal quickstart --model.inner_loop.rank 2"""


class RunFailed(SealError):
    """A `seal fit` failed. It has printed its own message, and its exit code becomes ours."""

    def __init__(self, run: Path, code: int) -> None:
        super().__init__(f"seal fit in {run} ended with exit code {code}; its message is above or in fit.log")
        self.exit_code = code


@dataclass(slots=True)
class Fit:
    """A `seal fit` in a process of its own."""

    run: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait for its end; raises `RunFailed` if it failed."""
        if code := self.process.wait():
            raise RunFailed(self.run, code)

    def stop(self) -> None:
        """Kill it and the processes of its other ranks; finished work is in its journal."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start_fit(
    run: Path,
    *options: str,
    config: Path | None = CONFIG,
    quiet: bool = False,
    environment: Mapping[str, str] = ONE_THREAD,
) -> Fit:
    """Start `seal fit` in the folder `run`.

    Signals from the terminal reach only this process, which stops what it has started.

    Args:
        run: The run folder.
        options: Options of the fit.
        config: Its first config file; None if the options name it.
        quiet: Whether its output is appended to `fit.log` in the run folder.
        environment: Variables besides those of this process.
    """
    command = [sys.executable, "-m", "seal_lightning", "fit", *(["--config", str(config)] if config else [])]
    command += [*options, "--trainer.default_root_dir", str(run)]  # outranks a config file
    environment = {**os.environ, **NO_MODULES_HERE, **environment}
    if not quiet:
        return Fit(run, subprocess.Popen(command, env=environment, process_group=0))
    run.mkdir(parents=True, exist_ok=True)
    with (run / "fit.log").open("ab") as log:
        return Fit(
            run, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        )


def last_row(run: Path) -> AccuracyRow:
    """Accuracy with own edits after the last round of a run."""
    return next(row for row in reversed(rounds_table(read_validations(run))) if row.name.startswith("edits"))


def side_by_side(run: Path) -> Table:
    """The self-edits about one held-out passage before and after training, with the queries that each won."""
    validations = read_validations(run)
    pair = typical_pair(validations[0], validations[max(validations)])
    shown = Table(
        title=Text(f"A held-out passage: {visible(passage_of(pair[0]))}"), title_justify="left", title_style=""
    )
    for name, rollout in zip(("before", "after"), pair, strict=True):
        right = sum(score == 1 for score in rollout.scores)
        shown.add_column(f"{name} training: {right} of {len(rollout.scores)} answers right", ratio=1)
    shown.add_row(*(Text(visible(rollout.text)) for rollout in pair), end_section=True)
    shown.add_row(*(_answers(rollout) for rollout in pair))
    return shown


def _answers(rollout: Rollout) -> Text:
    lines = [
        f"{'+' if score else '-'} {question} {answer}"
        for question, answer, score in zip(rollout.questions, rollout.answers, rollout.scores, strict=True)
    ]
    return Text(visible("\n".join(lines)))


def new_folder(wanted: Path) -> Path:
    """Make the folder `wanted`, or the same with the first free number: no run is ever overwritten.

    Raises:
        ConfigError: The folder cannot be made.
    """
    for folder in [wanted, *(wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 10_000))]:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError:
            if folder.exists():
                continue
            reason = "a file is in its way"
        except OSError as error:
            reason = reason_of(error)
        break
    else:
        reason = "all of its numbers are taken"
    raise ConfigError(f"--run_dir {wanted}: {reason}; choose a folder you can write to")


def main(argv: Sequence[str]) -> None:
    """Run the quickstart.

    Raises:
        ConfigError: The config file does not exist.
        RunFailed: One of the two runs failed.
    """
    parser = argparse.ArgumentParser(
        usage="seal quickstart [--config FILE] [--run_dir FOLDER] [--KEY VALUE ...]",
        description="SEAL in the lab beside its control, in a minute and a half on two cores.",
        epilog="Other options go to both runs, for example --trainer.max_epochs 1 or --data.difficulty hard.",
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: the lab's own")
    parser.add_argument("--run_dir", type=Path, default=Path("runs") / "quickstart", help="default: runs/quickstart")
    options, others = parser.parse_known_args(argv)
    if not options.config.is_file():
        raise ConfigError(f"--config {options.config}: no such file; leave --config out for the lab's own")
    run, started = new_folder(options.run_dir), time.monotonic()
    control = run / "control"
    print(INTRODUCTION, flush=True)
    fits: list[Fit] = []

    def stop() -> None:
        for fit in fits:
            fit.stop()
        for child in psutil.Process().children():  # a process that was just starting when a signal came
            child.kill()

    with stopped_on_leaving(stop):
        try:
            fits.append(start_fit(run, *others, config=options.config))
            fits.append(start_fit(control, *others, *CONTROL, config=options.config, quiet=True))
            for fit in fits:
                fit.wait()
        finally:
            stop()
    best, random = last_row(run), last_row(control)
    print(
        f"\ncontrol: with edits kept at random instead of the best, {random.accuracy:.3f} ({random.low:.3f} – "
        f"{random.high:.3f}) instead of {best.accuracy:.3f} ({best.low:.3f} – {best.high:.3f})\n"
    )
    plain_console().print(side_by_side(run), soft_wrap=False)
    if picture := save_picture(run, control):
        print(f"the same as a picture: {picture}")
    print(LAST_WORDS.format(seconds=time.monotonic() - started, run=run))
