"""Does SEAL learn on ARC's side of the lab? Several seeds of `seal fit --config configs/arc/synthetic_lab.yaml`.

    python benchmarks/arc.py [--config FILE] [--seeds 3] [--first-seed N] [--json FILE] [--folder DIR] [OPTIONS]

A seed changes the rules, the puzzles, the sampling and the adapters. Success is the share of (puzzle, edit) pairs of
held-out rules that are wholly right, after the last round, not the best one. Intervals are 95 % bootstrap intervals
that draw seeds first and then puzzles within a seed; a difference is taken puzzle by puzzle. Runs are single-threaded
processes, `--jobs` of them at a time.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from seeds import Scores, print_gain, print_table, read_options, sweep

from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import means_of
from seal_lightning.results.table import to_markdown
from seal_lightning.tasks.arc.tables import arc_tables

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "arc" / "synthetic_lab.yaml"
ALONE = "demonstrations alone"
ROWS = {"passage": ALONE, "written": "fixed configuration"}
BEFORE, IN_CONTEXT = "untrained self-edits", "in-context"


def run_seeds(
    folder: Path, seeds: Sequence[int], *, config: Path, jobs: int, options: Sequence[str]
) -> dict[int, float]:
    """Run every seed and return each run's seconds; its run folder is `folder/seed=N`."""
    seeded = ("model.seed", "data.train.seed", "data.validation.seed")
    return dict(zip(seeds, sweep(folder, seeds, *options, config=config, seeded=seeded, jobs=jobs), strict=True))


def scores_of(run: Path) -> Scores:
    """The results of a run by row, in the order of the table, averaged over each puzzle's edits."""
    found = read_validations(run)
    scores: Scores = {IN_CONTEXT: list(means_of(found[0], "base").values())}
    for kind, name in ROWS.items():
        scores[name] = [rollout.score for rollout in found[0] if rollout.kind == kind]
    for round, rollouts in sorted(found.items()):
        name = f"after round {round}" if round else BEFORE
        scores[name] = list(means_of(rollouts, "edits").values())
    return scores


def main() -> None:
    options, others = read_options(__doc__, seeds=3, config=CONFIG)
    folder, seeds = options.folder or Path(tempfile.mkdtemp(prefix="seal-arc-")), options.seeds
    seconds = run_seeds(folder, seeds, config=options.config, jobs=options.jobs, options=others)
    tables = arc_tables(read_validations(folder / f"seed={seeds[0]}"))
    print("\n\n".join([f"\nthe run with seed {seeds[0]}:", *map(to_markdown, tables)]), end="\n\n")
    scores = [scores_of(folder / f"seed={seed}") for seed in seeds]
    if not options.folder:
        shutil.rmtree(folder)
    learnt = report(scores, seeds)
    print(
        f"{len(seeds)} seeds x {len(scores[0][IN_CONTEXT])} puzzles of held-out rules; at most "
        f"{max(seconds.values()):.0f} s a seed, {options.jobs} at a time on {os.cpu_count()} cores "
        f"({platform.processor() or platform.machine()})"
    )
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "scores": scores}, indent=1) + "\n")
    sys.exit(not learnt)


def report(scores: Sequence[Scores], seeds: Sequence[int]) -> bool:
    """Print the table and the differences; return whether SEAL has learnt what the lab promises."""
    means = print_table(scores, seeds, rows=scores[0], head=("held-out rules", "success"))
    last = list(scores[0])[-1]
    print()
    gain = print_gain(f"gain {last}", scores, last, over=BEFORE)
    steps = [
        print_gain(f"{ALONE} over {IN_CONTEXT}", scores, ALONE, over=IN_CONTEXT),
        print_gain(f"{last} over {ALONE}", scores, last, over=ALONE),
    ]
    ordered = means[IN_CONTEXT] < means[BEFORE] < means[last]
    print(f"order in-context < untrained < trained: {'yes' if ordered else 'NO'}")
    print(f"order in-context < {ALONE} < trained: {'yes' if all(step['low'] > 0 for step in steps) else 'NO'} "
          "(yes: both intervals are above 0)")  # fmt: skip
    return ordered and gain["mean"] >= 0.2 and gain["low"] > 0


if __name__ == "__main__":
    main()
