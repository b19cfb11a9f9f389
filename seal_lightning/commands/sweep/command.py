"""The command `seal sweep`, from its options to its last words."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from seal_lightning.commands.sweep.grid import SEED_OPTION, Checked, Planned, check, plan, read_axis, read_seeds
from seal_lightning.commands.sweep.running import Display, SweepRun, Workers, environments, is_finished
from seal_lightning.commands.sweep.summary import known_seconds, save_state, summarise
from seal_lightning.errors import ConfigError, SealError
from seal_lightning.files.ownership import owning
from seal_lightning.progress.screen import Screen

MOST = 1000  # runs; whoever asks for more has mistaken a range for a list


class SweepFailed(SealError):
    """Runs of a sweep failed; the others have been run nevertheless."""


def main(argv: Sequence[str]) -> None:
    """Run the sweep.

    Raises:
        ConfigError: An option or one of the settings cannot work; nothing was started.
        SweepFailed: A run failed.
    """
    options, others = _parser().parse_known_args(argv)
    planned = _planned(options, others)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: expected 1 or more; leave it out for one at a time")
    folder: Path = options.output
    if options.dry_run:
        runs = _runs(planned, folder, check(planned, folder))
        for run in runs:
            state = "finished" if run.kept else "to resume" if (run.folder / "config.yaml").is_file() else "new"
            command = ["seal", "fit", *run.planned.options, "--trainer.default_root_dir", str(run.folder)]
            print(f"{run.name}  ({state})\n  {shlex.join(command)}")
        print(f"{len(runs)} runs, {sum(run.kept for run in runs)} of them finished; nothing was started")
        return
    with owning(folder, option=f"--output {folder}"):
        screen = Screen()
        screen.line(f"{len(planned)} runs in {folder}: checking their settings")
        checked = check(planned, folder)
        jobs = options.jobs or (len(checked.gpus) // checked.gpus_each if checked.gpus else 1) or 1
        _work(Display(screen, _runs(planned, folder, checked), jobs), folder, checked)


def _work(display: Display, folder: Path, checked: Checked) -> None:
    runs, jobs = display.runs, display.jobs

    def on_change(run: SweepRun) -> None:
        display.tell(run)
        if run.ended:
            save_state(folder, runs)

    with display.watching():
        Workers(runs, jobs, environments(jobs, checked), on_change, display.refresh).work()
    summarise(folder, runs)
    if failed := [run for run in runs if run.state == "failed"]:
        names = ", ".join(run.name for run in failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise SweepFailed(
            f"{len(failed)} of {len(runs)} runs failed ({names}); see fit.log in their folders, and run the same "
            "command to try them again"
        )


def _runs(planned: Sequence[Planned], folder: Path, checked: Checked) -> list[SweepRun]:
    seconds = known_seconds(folder)
    runs = [SweepRun(run, folder / run.name, seconds_before=seconds.get(run.name, 0.0)) for run in planned]
    for run in runs:
        if is_finished(run, checked):
            run.state, run.kept = "finished", True
    return runs


def _planned(options: argparse.Namespace, others: Sequence[str]) -> list[Planned]:
    axes = [read_axis(text) for texts in options.over for text in texts]
    if not axes and options.seeds is None:
        raise ConfigError(
            "--over is not set: name what to sweep, as in --over model.inner_loop.rank=2,8, or give --seeds N"
        )
    seeded = [key.strip() for key in options.seeded.split(",") if key.strip()]
    seeds = [] if options.seeds is None else read_seeds(options.seeds)
    planned = plan(axes, seeds, options=others, seeded=seeded)
    if len(planned) > MOST:
        raise ConfigError(
            f"--over and --seeds: expected at most {MOST:,} runs, got {len(planned):,}: sweep fewer values at once"
        )
    return planned


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal sweep",
        usage="seal sweep [--config FILE] --over KEY=VALUE,VALUE ... [--seeds N] [--jobs N] [--output FOLDER] "
        "[--KEY VALUE ...]",
        description="Runs seal fit with every combination of the values of --over and every seed, and compares them: "
        "one table with intervals over seeds, and one figure. The same command resumes a sweep that was stopped.",
        epilog="Other options go to every run, for example --trainer.max_epochs 1. docs/sweep.md has more.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--over", action="append", nargs="+", default=[], metavar="KEY=VALUE,VALUE",
        help="an option of seal fit and its values, also as [1, 2]; several of them give all combinations",
    )  # fmt: skip
    parser.add_argument(
        "--seeds",
        metavar="N",
        help="how many seeds, from 0, or a list such as 300,301; default: the seed of the configuration",
    )
    parser.add_argument(
        "--seeded", default=SEED_OPTION, metavar="KEY,KEY",
        help="the options that get the seed, such as model.seed,data.seed; default: model.seed, so that all runs have "
        "the same data",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time; default: 1, or as many as there are GPUs for"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs") / "sweep", metavar="FOLDER",
        help="folder for the runs and the table; default: runs/sweep",
    )  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="check the settings and list the runs")
    return parser
