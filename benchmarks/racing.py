"""How many of the same edits does a race keep, and at what share of the inner loop's compute?

    python benchmarks/racing.py --seeds 4 [--budget 0.5] [--orders 8] [--jobs N] [--json FILE] [RUN ...]

In the lab, every seed makes the first E-step of configs/quickstart.yaml twice, with three repeats, in full and raced;
what they keep (two edits a context) and what they trained is compared. A RUN is anything with several repeats that
`seal replay` reads; it is raced over as it was recorded, and with the repeats of every edit in other orders. `rerun` is
what noise leaves to any method: the edits in common of two full E-steps whose repeats are drawn from the recorded ones.
Intervals are 95 % bootstrap intervals over contexts.
"""

import argparse
import json
import os
import platform
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seal_lightning.commands.quickstart import start_fit
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.entries import Entry, race_anew, read_entries
from seal_lightning.records.journal import read_rollouts
from seal_lightning.results.averages import interval, say_interval
from seal_lightning.results.edits import share_spent
from seal_lightning.types import Rollout

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
KEPT = 2  # by the lab's filter
SMALL = "--trainer.max_epochs 1 --data.held_out 1 --model.m_step.epochs 1 --model.e_step.repeats 3".split()
Key = tuple[str, int]  # context and edit


def lab_seed(folder: Path, seed: int, racing: Racing) -> tuple[list[Rollout], list[Rollout]]:
    """The rollouts of one seed's E-step in full and raced, by the command that users run."""
    values = {"budget": racing.budget, "keep": KEPT, "together": racing.together}
    raced = [word for name, value in values.items() for word in (f"--model.e_step.racing.{name}", str(value))]
    found = []
    for name, options in (("full", []), ("raced", raced)):
        run = folder / f"{name}-{seed}"
        start_fit(
            run, *SMALL, *options, "--model.seed", str(seed), "--data.seed", str(seed), config=CONFIG, quiet=True
        ).wait()
        found.append(read_rollouts(run / "journal", "train-000"))
    return found[0], found[1]


def kept(rollouts: Sequence[Rollout], keep: int) -> dict[str, set[int]]:
    """The edits that are kept, by context."""
    groups = group_rollouts(rollouts)
    return {group.context_id: {one.edit_index for one in best_of(group, k=keep)} for group in groups}


def overlap(one: dict[str, set[int]], other: dict[str, set[int]]) -> list[float]:
    """Share of `other`'s edits that `one` keeps too, by context."""
    return [len(one[context] & edits) / len(edits) for context, edits in other.items() if edits]


def compare_lab(folder: Path, seeds: Sequence[int], *, racing: Racing, jobs: int) -> dict[str, Any]:
    """Print the lab's figures."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        pairs = list(pool.map(lambda seed: lab_seed(folder, seed, racing), seeds))
    shares = [overlap(kept(raced, KEPT), kept(full, KEPT)) for full, raced in pairs]
    spent = [share_spent(raced) or 1.0 for _, raced in pairs]
    seconds = [[sum(r.seconds["inner loop"] for r in rollouts) for rollouts in pair] for pair in pairs]
    every = [share for mine in shares for share in mine]
    low, high = interval(every)
    print(
        f"lab, {len(pairs)} seeds x {len(shares[0])} contexts, 8 edits x 3 repeats, {KEPT} kept, at {racing.budget:.0%}"
    )
    print("| seed | same kept edits | trained tokens | inner loop, full | raced |")
    print("|---|---|---|---|---|")
    for seed, mine, share, (full, raced) in zip(seeds, shares, spent, seconds, strict=True):
        print(f"| {seed} | {fmean(mine):.1%} | {share:.1%} | {full:.1f} s | {raced:.1f} s |")
    around = say_interval(low, high, len(every), form=".1%")
    print(f"all: {fmean(every):.1%} the same ({around}) at {fmean(spent):.1%} of the trained tokens\n")
    return {"same": fmean(every), "low": low, "high": high, "spent": spent, "seconds": seconds}


def reordered(entry: Entry, draw: random.Random, *, again: bool = False) -> Entry:
    """The entry with the repeats of every edit in another order; `again` draws each anew, with replacement."""
    by_edit: dict[Key, list[Rollout]] = {}
    for rollout in entry.rollouts:
        by_edit.setdefault((rollout.context_id, rollout.edit_index), []).append(rollout)
    mixed = [
        replace(chosen, repeat=number, reward=chosen.score)
        for repeats in by_edit.values()
        for number, chosen in enumerate(
            draw.choices(repeats, k=len(repeats)) if again else draw.sample(repeats, len(repeats))
        )
    ]
    return replace(entry, rollouts=tuple(mixed))


def compare_recorded(entry: Entry, racing: Racing, *, orders: int) -> dict[str, Any]:
    """Print the figures of one recorded E-step."""
    draw = random.Random(0)
    found = race_anew(entry, racing)
    others = [race_anew(reordered(entry, draw), racing) for _ in range(orders)]
    reruns = [[kept(reordered(entry, draw, again=True).rollouts, racing.keep) for _ in range(2)] for _ in range(100)]
    rerun = fmean(fmean(overlap(one, other)) for one, other in reruns)
    around = say_interval(*found.interval, found.kept, form=".1%")
    print(f"{entry.name}, budget {racing.budget:.0%}: {found.trainings} of {found.of} trainings, {found.spent:.1%}")
    print(f"  as recorded: {found.same / found.kept:.1%} the same ({around}), ", end="")
    print(f"{found.as_good / found.kept:.1%} as good")
    result = {**asdict(found), "rerun": rerun}
    if orders > 1:
        same, good = ([getattr(one, name) / one.kept for one in others] for name in ("same", "as_good"))
        print(f"  {orders} other orders: {fmean(same):.1%} ± {stdev(same):.1%} the same, {fmean(good):.1%} as good")
        result |= {"orders": same}
    print(f"  rerun of the full E-step: {rerun:.1%} the same\n", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="recorded E-steps with repeats")
    parser.add_argument("--seeds", type=int, default=4, help="of the lab; 0 leaves it out")
    parser.add_argument("--budget", type=float, default=0.5, help="share of the full inner loop")
    parser.add_argument("--together", type=float, default=Racing().together, help="see racing.together")
    parser.add_argument("--orders", type=int, default=8, help="other orders of the repeats of a recorded run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    racing = Racing(budget=options.budget, together=options.together)
    result: dict[str, Any] = {}
    for run in options.runs:
        for entry in read_entries(run):
            result[entry.name] = compare_recorded(entry, racing, orders=options.orders)
    if options.seeds:
        with tempfile.TemporaryDirectory(prefix="seal-racing-") as folder:
            result["lab"] = compare_lab(Path(folder), range(options.seeds), racing=racing, jobs=options.jobs)
    print(f"{os.cpu_count()} cores ({platform.machine()})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
