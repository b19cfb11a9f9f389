"""One configuration with several seeds, run by `seal sweep`, and the figures that a benchmark adds.

Intervals are 95 % bootstrap intervals that draw seeds first and then contexts within a seed.
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from seal_lightning.cli import main

Scores = dict[str, list[float]]  # of a seed, by row of the table: one score a held-out context


def read_options(
    description: str | None, *, seeds: int, config: Path | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """The command line, with `seeds` as a range, and the options of `seal fit` on it.

    Args:
        description: What `--help` says first.
        seeds: How many where the command line does not say.
        config: What `--config` stands for where it is not given; None leaves that option to `seal fit`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--folder", type=Path, help="keep the runs here, where finished ones are not run again")
    if config is not None:
        parser.add_argument("--config", type=Path, default=config, help="what is run")
    options, others = parser.parse_known_args()
    options.seeds = range(options.first_seed, options.first_seed + options.seeds)
    return options, others


def sweep(
    folder: Path, seeds: Sequence[int], *options: str, config: Path, seeded: Sequence[str], jobs: int
) -> list[float]:
    """Run `seal sweep` in `folder` and return each run's seconds; if a run fails, end the process."""
    listed = ",".join(map(str, seeds))
    command = ["sweep", "--config", str(config), "--output", str(folder), "--jobs", str(jobs), *options]
    if code := main([*command, "--seeds", f"[{listed}]", "--seeded", ",".join(seeded)]):
        sys.exit(code)
    return [row["seconds"] for row in json.loads((folder / "sweep.json").read_text())["runs"]]


def print_table(
    scores: Sequence[Scores], seeds: Iterable[int], *, rows: Iterable[str], head: tuple[str, str]
) -> dict[str, float]:
    """Print the rows with their means, intervals and seeds, below a head of the first two columns; return the means."""
    columns = [*head, "95 % interval", *(f"seed {seed}" for seed in seeds)]
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    means = {}
    for row in rows:
        by_seed = [seed[row] for seed in scores]
        means[row] = mean_of(by_seed)
        low, high = interval(by_seed)
        cells = " | ".join(f"{fmean(values):.2f}" for values in by_seed)
        print(f"| {row} | {means[row]:.3f} | {low:.3f} – {high:.3f} | {cells} |")
    return means


def print_gain(name: str, scores: Sequence[Scores], row: str, *, over: str) -> dict[str, float]:
    """Print how much better one row is than another; return `mean`, `low` and `high`."""
    by_seed = [[a - b for a, b in zip(seed[row], seed[over], strict=True)] for seed in scores]
    mean, (low, high) = mean_of(by_seed), interval(by_seed)
    print(f"{name}: {100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    return {"mean": mean, "low": low, "high": high}


def mean_of(by_seed: Sequence[Sequence[float]]) -> float:
    """The mean over seeds of the mean over contexts."""
    return fmean(map(fmean, by_seed))


def interval(by_seed: Sequence[Sequence[float]], *, resamples: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of `mean_of`."""
    draw = random.Random(0)
    means = sorted(
        mean_of([draw.choices(seed, k=len(seed)) for seed in draw.choices(by_seed, k=len(by_seed))])
        for _ in range(resamples)
    )
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]
