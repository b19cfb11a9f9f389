"""What does each objective of the M-step gain in the lab? Fits of configs/quickstart.yaml with each, several seeds.

    OMP_NUM_THREADS=1 python benchmarks/m_step_objectives.py --folder DIR --seeds 5 --first-seed 21 [--jobs N]
        [--only sft,dpo] [--control] [--json FILE] [any option of seal fit]

The gain is that of the last round's edits on held-out passages over those before training, whatever round was best; the
spread is the standard deviation of a seed's gain. `--control` runs every objective with edits and rewards by lot, too.
The settings below were tried on the first round of seed 0 only, dpo's with two learning rates. A fit whose policy is
not finite any more has failed: it is named, and its seed is in no mean. Finished fits in DIR are not run again.
Intervals are 95 % bootstrap intervals that draw seeds first and then passages.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lab import CONTROL, RUN
from seeds import interval, mean_of, read_options, sweep

from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import means_of

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft"},  # 1e-3 and 8 epochs, as the quickstart has them
    "weighted": {
        "objective": {"class_path": "seal_lightning.m_step.objectives.WeightedImitation", "init_args": {"beta": 0.5}},
        "epochs": 4,
    },
    "dpo": {"objective": "dpo"},
    "grpo": {"objective": "grpo", "epochs": 4, "batch_size": 2},
}
ROUNDS = 2


def options_of(name: str) -> list[str]:
    """The options of `seal fit` for an objective, beside which everything is the quickstart's."""
    settings = {f"--model.m_step.{option}": value for option, value in OBJECTIVES[name].items()}
    return [word for option, value in settings.items() for word in (option, _written(value))]


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def run_seeds(folder: Path, seeds: Sequence[int], *, filters: Sequence[str], jobs: int, options: Sequence[str]) -> None:
    """Run every seed with each of the filters, in folders that `gains_of` knows; a failure ends no other."""
    over = ("--over", f"filter={','.join(filters)}")
    with suppress(SystemExit):
        sweep(folder, seeds, *over, *options, config=CONFIG, seeded=("model.seed", "data.seed"), jobs=jobs)


def gains_of(folder: Path, seed: int, kept_by: str) -> list[float] | None:
    """What each held-out passage's edits have gained in the last round, or None where the fit has not come so far."""
    found = read_validations(folder / f"filter={kept_by}_seed={seed}")
    if max(found, default=0) < ROUNDS:
        return None
    before, after = (means_of(found[round], "edits") for round in (0, ROUNDS))
    return [after[name] - before[name] for name in before]


def report(name: str, gains: dict[int, list[float] | None]) -> dict[str, Any]:
    """Print a row of the table; return it as plain values."""
    ended = {seed: gained for seed, gained in gains.items() if gained is not None}
    failed = [seed for seed in gains if seed not in ended]
    row: dict[str, Any] = {"seeds": {seed: fmean(gained) for seed, gained in ended.items()}, "failed": failed}
    if ended:
        by_seed = list(ended.values())
        low, high = interval(by_seed)
        spread = stdev(map(fmean, by_seed)) if len(by_seed) > 1 else 0.0
        row |= {"mean": mean_of(by_seed), "low": low, "high": high, "spread": spread}
        figures = f"{100 * row['mean']:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {100 * spread:.1f}"
    else:
        figures = "- | - | -"
    cells = (f"{100 * fmean(gained):+.0f}" if gained else "failed" for gained in gains.values())
    print(f"| {name} | {figures} | {' | '.join(cells)} |", flush=True)
    return row


def main() -> None:
    options, others = read_options(__doc__, seeds=5)
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", default=",".join(OBJECTIVES))
    parser.add_argument("--control", action="store_true")
    own, others = parser.parse_known_args(others)
    names, filters = own.only.split(","), [RUN, CONTROL] if own.control else [RUN]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="seal-m-step-"))
    for name in names:
        chosen = [*options_of(name), "--trainer.max_epochs", str(ROUNDS), *others]
        run_seeds(folder / name, options.seeds, filters=filters, jobs=options.jobs, options=chosen)
    print("\n| objective | gain, points | 95 % interval | spread over seeds |", *options.seeds, "|", sep=" ")
    print("|" + "---|" * (4 + len(options.seeds)))
    rows = {}
    for name in names:
        for kept_by in filters:
            shown = name if kept_by == RUN else f"{name}, control"
            gains = {seed: gains_of(folder / name, seed, kept_by) for seed in options.seeds}
            rows[shown] = report(shown, gains)
    if options.json:
        options.json.write_text(json.dumps({"seeds": list(options.seeds), "objectives": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
