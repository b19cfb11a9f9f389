"""Does SEAL learn in the lab? Several seeds of `seal fit --config configs/quickstart.yaml`, each beside its control.

    python benchmarks/lab.py --seeds 5 [--first-seed N] [--json FILE] [any option of seal fit]

A seed changes the world's passages, the sampling and the adapters. Scores are those of held-out passages after the last
round, not of the best one; the control keeps edits at random. Intervals are 95 % bootstrap intervals that draw seeds
first and then passages within a seed. Runs are single-threaded processes, `--jobs` of them at a time.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from seal_lightning.journal import read_validations
from seal_lightning.lab import LabDataModule
from seal_lightning.lab.lines import STYLE_SHARES, style_counts
from seal_lightning.quickstart import CONTROL, edits_by_context, mean_score, start_fit

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "quickstart.yaml"
Scores = dict[str, list[float]]  # by row of the table: one score a held-out passage


def run_seeds(folder: Path, seeds: Sequence[int], *, jobs: int, options: Sequence[str] = ()) -> None:
    """Every seed's run and control, in `folder/seed-N` and `folder/control-N`."""

    def run(kind: str, seed: int) -> None:
        started = time.monotonic()
        wanted = [*options, "--model.seed", str(seed), "--data.seed", str(seed)]
        if kind == "control":
            wanted += [*CONTROL, "--filter.seed", str(seed)]
        start_fit(folder / f"{kind}-{seed}", *wanted, config=CONFIG, quiet=True).wait()
        print(f"{kind} {seed}: {time.monotonic() - started:.0f} s", flush=True)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for done in [pool.submit(run, kind, seed) for seed in seeds for kind in ("seed", "control")]:
            done.result()


def scores_of(folder: Path, seed: int) -> Scores:
    """What a seed came to, by row; each passage's edits averaged."""
    found, control = (
        read_validations(folder / f"seed-{seed}"),
        read_validations(folder / f"control-{seed}"),
    )
    scores: Scores = {}
    for kind in ("passage", "written"):
        scores[kind] = [rollout.score for rollout in found[0] if rollout.kind == kind]
    before = edits_by_context(found[0])
    scores["base"] = [fmean(rollout.baseline for rollout in group) for group in before.values()]
    for round, rollouts in found.items():
        name = f"edits after round {round}" if round else "edits before training"
        scores[name] = [mean_score(group) for group in edits_by_context(rollouts).values()]
    scores["last"] = scores[name]
    scores["control"] = [mean_score(group) for group in edits_by_context(control[max(control)]).values()]
    return scores


def interval(by_seed: Sequence[Sequence[float]], *, resamples: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds of the mean over passages."""
    draw = random.Random(0)
    means = sorted(
        fmean(fmean(draw.choices(seed, k=len(seed))) for seed in draw.choices(by_seed, k=len(by_seed)))
        for _ in range(resamples)
    )
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def gains(scores: Sequence[Scores], row: str, over: str) -> list[list[float]]:
    """Each seed's differences by passage."""
    return [[a - b for a, b in zip(seed[row], seed[over], strict=True)] for seed in scores]


def styles(folder: Path, seed: int, round: int) -> Counter[str]:
    """How many lines of each style the held-out edits of a round have; for looking at, no part of the algorithm."""
    run = folder / f"seed-{seed}"
    options = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    facts = {name: passage.facts for name, passage in LabDataModule(**options).held_out_passages().items()}
    counts: Counter[str] = Counter()
    for rollout in read_validations(run)[round]:
        if rollout.kind == "edit":
            counts += Counter(style_counts(rollout.text, facts[rollout.context_id]))
    return counts


def shares(counts: Counter[str]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{style} {counts[style] / total:.0%}" for style in (*STYLE_SHARES, "other"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options, others = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="seal-lab-"))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    started = time.monotonic()
    run_seeds(folder, seeds, jobs=options.jobs, options=others)
    seconds = time.monotonic() - started
    scores = [scores_of(folder, seed) for seed in seeds]
    result = report(scores, seeds, seconds)
    last = max(read_validations(folder / f"seed-{seeds[0]}"))
    for round in (0, last):
        counts = sum((styles(folder, seed, round) for seed in seeds), Counter())
        result[f"lines after round {round}"] = dict(counts)
        print(f"lines of held-out edits after round {round}: {shares(counts)}")
    if options.json:
        options.json.write_text(json.dumps({**result, "scores": scores}, indent=1) + "\n")
    shutil.rmtree(folder)
    sys.exit(not result["learnt"])


def report(scores: Sequence[Scores], seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """Print the table and the two differences; `learnt` says whether they are what the lab promises."""
    names = ["base", "passage", *sorted(name for name in scores[0] if name.startswith("edits after")), "written"]
    names.insert(2, "edits before training")
    print("\n| held-out passages | mean | 95 % interval | " + " | ".join(f"seed {seed}" for seed in seeds) + " |")
    print("|---|---|---|" + "---|" * len(seeds))
    means = {}
    for name in [*names, "control"]:
        by_seed = [seed[name] for seed in scores]
        means[name] = fmean(map(fmean, by_seed))
        low, high = interval(by_seed)
        cells = " | ".join(f"{fmean(values):.2f}" for values in by_seed)
        print(f"| {name} | {means[name]:.3f} | {low:.3f} – {high:.3f} | {cells} |")
    gain, lot = gains(scores, "last", "edits before training"), gains(scores, "control", "edits before training")
    result: dict[str, Any] = {"seeds": list(seeds), "seconds": seconds, "means": means}
    for name, found in (("gain", gain), ("gain of the control", lot)):
        low, high = interval(found)
        result[name] = {"mean": fmean(map(fmean, found)), "low": low, "high": high}
        print(f"{name}: {100 * result[name]['mean']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    ordered = [means[name] for name in ("base", "passage", "edits before training", names[-2], "written")]
    result["ordered"] = ordered == sorted(ordered)
    result["selection"] = (
        abs(result["gain of the control"]["mean"]) <= 0.08
    )  # what random edits teach is next to nothing
    gained = result["gain"]["mean"] >= 0.3 and result["gain"]["low"] > 0.2
    result["learnt"] = result["ordered"] and result["selection"] and gained
    print(
        f"order base < passage < own edits < trained < written: {'yes' if result['ordered'] else 'NO'}; "
        f"control within 8 points of no training: {'yes' if result['selection'] else 'NO'}; "
        f"{len(seeds)} seeds x {len(scores[0]['base'])} passages, {seconds:.0f} s on {os.cpu_count()} cores "
        f"({platform.machine()})"
    )
    return result


if __name__ == "__main__":
    main()
