"""Does SEAL learn in the lab? Several seeds of `seal fit --config configs/lab.yaml`, each beside its control.

    python benchmarks/lab.py --seeds 5 [--first-seed N] [--json FILE] [--folder DIR] [any option of seal fit]

A seed changes the world's passages, the sampling and the adapters. Scores are those of held-out passages after the last
round, not of the best one; the control keeps edits at random. Intervals are 95 % bootstrap intervals that draw seeds
first and then passages within a seed. Runs are single-threaded processes, `--jobs` of them at a time.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from seeds import Scores, print_gain, print_table, read_options, sweep

from seal_lightning.lab import LabDataModule
from seal_lightning.lab.lines import STYLE_SHARES, style_counts
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import means_of

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "lab.yaml"
RUN, CONTROL = "ReSTEMFilter", "RandomFilter"


def run_seeds(folder: Path, seeds: Sequence[int], *, jobs: int, options: Sequence[str] = ()) -> None:
    """Run every seed and its control, in folders that `run_of` knows."""
    filters = f"filter={RUN},{CONTROL}"
    sweep(folder, seeds, "--over", filters, *options, config=CONFIG, seeded=("model.seed", "data.seed"), jobs=jobs)


def run_of(folder: Path, seed: int, kept_by: str) -> Path:
    return folder / f"filter={kept_by}_seed={seed}"


def scores_of(folder: Path, seed: int) -> Scores:
    """The results of a seed by row, averaged over each passage's edits."""
    found, control = (read_validations(run_of(folder, seed, kept_by)) for kept_by in (RUN, CONTROL))
    scores: Scores = {}
    for kind in ("passage", "written"):
        scores[kind] = [rollout.score for rollout in found[0] if rollout.kind == kind]
    scores["base"] = list(means_of(found[0], "base").values())
    for round, rollouts in found.items():
        name = f"edits after round {round}" if round else "edits before training"
        scores[name] = list(means_of(rollouts, "edits").values())
    scores["last"] = scores[name]
    scores["control"] = list(means_of(control[max(control)], "edits").values())
    return scores


def styles(folder: Path, seed: int, round: int) -> Counter[str]:
    """How many lines of each style the held-out edits of a round have; for inspection, not part of the algorithm."""
    run = run_of(folder, seed, RUN)
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
    options, others = read_options(__doc__, seeds=5)
    folder, seeds = options.folder or Path(tempfile.mkdtemp(prefix="seal-lab-")), options.seeds
    started = time.monotonic()
    run_seeds(folder, seeds, jobs=options.jobs, options=others)
    seconds = time.monotonic() - started
    scores = [scores_of(folder, seed) for seed in seeds]
    result = report(scores, seeds, seconds)
    last = max(read_validations(run_of(folder, seeds[0], RUN)))
    for round in (0, last):
        counts = sum((styles(folder, seed, round) for seed in seeds), Counter())
        result[f"lines after round {round}"] = dict(counts)
        print(f"lines of held-out edits after round {round}: {shares(counts)}")
    if options.json:
        options.json.write_text(json.dumps({**result, "scores": scores}, indent=1) + "\n")
    if not options.folder:
        shutil.rmtree(folder)
    sys.exit(not result["learnt"])


def report(scores: Sequence[Scores], seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """Print the table and both differences; `learnt` says whether they are what the lab promises."""
    names = ["base", "passage", *sorted(name for name in scores[0] if name.startswith("edits after")), "written"]
    names.insert(2, "edits before training")
    print()
    means = print_table(scores, seeds, rows=[*names, "control"], head=("held-out passages", "mean"))
    result: dict[str, Any] = {"seeds": list(seeds), "seconds": seconds, "means": means}
    for name, row in (("gain", "last"), ("gain of the control", "control")):
        result[name] = print_gain(name, scores, row, over="edits before training")
    ordered = [means[name] for name in ("base", "passage", "edits before training", names[-2], "written")]
    result["ordered"] = ordered == sorted(ordered)
    result["selection"] = (
        abs(result["gain of the control"]["mean"]) <= 0.08
    )  # what random edits teach is next to nothing
    gained = result["gain"]["mean"] >= 0.45 and result["gain"]["low"] > 0.35
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
