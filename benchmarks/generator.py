"""Edits as weights in the lab: generators against the text editor, the inner loop and the passage in context.

    python benchmarks/generator.py --out FOLDER [--seeds 5] [--first-seed N] [--jobs 2] [--small]

A seed changes the towns, the networks and the adapters. Each runs in a process of its own with one thread, writes
FOLDER/seed-N.jsonl as it goes, and goes on where it was cut when the same command is given again. The tables are made
of all seeds that are finished; `--seeds 0` only prints them. Intervals are 95 % bootstrap intervals that draw seeds
first and then towns within a seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from generator_seed import Seed, Sizes
from generator_training import RECIPES
from seeds import interval, mean_of

WHOLE, SMALL = (
    Sizes(held_out=24, merged=100, known=40, passages=627),
    Sizes(held_out=6, merged=12, known=8, passages=48),
)
Rows = dict[tuple[str, str], dict[str, Any]]  # by part and row


def run_seed(folder: Path, seed: int, sizes: Sizes) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    Seed(folder, seed, sizes).run()


def read(folder: Path) -> list[Rows]:
    """The rows of every seed that is finished."""
    found: list[Rows] = []
    for path in sorted(folder.glob("seed-*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if any(row["part"] == "end" for row in rows):
            found.append({(row["part"], row["row"]): row for row in rows})
    return found


def share(seeds: Sequence[Rows], part: str, row: str) -> str:
    """A row's accuracy in percent with its interval; a dash where it was not measured."""
    rows = [one[part, row] for one in seeds if (part, row) in one]
    if not rows:
        return "–"
    if "scores" not in rows[0]:
        return f"does not fit ({rows[0]['tokens']:,} tokens, window {rows[0]['window']:,})"
    scores = [one["scores"] for one in rows]
    low, high = interval(scores)
    return f"{100 * mean_of(scores):.1f} ({100 * low:.1f} – {100 * high:.1f})"


def mean(seeds: Sequence[Rows], part: str, row: str, key: str, *, percent: bool = True) -> str:
    """The mean over seeds of another figure of a row."""
    values = [one[part, row][key] for one in seeds if key in one.get((part, row), {})]
    if not values:
        return "–"
    return f"{100 * fmean(values):.1f}" if percent else f"{fmean(values):,.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def print_one(seeds: Sequence[Rows]) -> None:
    """One passage: every way to learn it."""
    rows = [
        [row, share(seeds, "editor", row), "", mean(seeds, "editor", row, "seconds", percent=False)]
        for row in ("base", "passage only", "text editor, untrained", "text editor, trained", "ideal edits")
    ]
    rows[0][2] = share(seeds, "baselines", "known towns")
    for place, kind in ((1, "passages"), (4, "ideal edits")):
        rows[place][2] = mean(seeds, "merge the inner loop's", f"1 concatenate, {kind}", "known")
    for name in RECIPES:
        known = share(seeds, f"one {name}", "known towns")
        spent = mean(seeds, f"train {name}", "trained", "seconds", percent=False)
        rows.append([name, share(seeds, f"one {name}", "held-out towns"), known, spent])
    print("One passage, held-out towns: right answers in percent\n")
    table(["", "held-out towns", "known towns, under adapters for others", "seconds of training"], rows)


def print_merged(seeds: Sequence[Rows]) -> None:
    """Many passages in one adapter."""
    keys = {part_row for one in seeds for part_row in one}
    counts = sorted({int(row.split()[0]) for part, row in keys if part.startswith("merge ") and row != "done"})
    lines: list[list[str]] = []
    sources = [(f"merge {name}", "", name) for name in RECIPES]
    sources += [("merge the inner loop's", f", {kind}", f"inner loop, {kind}") for kind in ("passages", "ideal edits")]
    for part, suffix, name in sources:
        for way in ("sum", "concatenate", "least_squares"):
            # one adapter alone is the same, whatever the way
            cells = [share(seeds, part, f"{count} {'concatenate' if count == 1 else way}{suffix}") for count in counts]
            known = [mean(seeds, part, f"{count} {way}{suffix}", "known") for count in counts[1:]]
            lines.append([name, way, *cells, " / ".join(known)])
    for row in ("in the prompt of a self-edit", "before the query"):
        cells = [share(seeds, "baselines", f"{count} in context, {row}") for count in counts]
        lines.append(["passages in context", row, *cells, ""])
    print("Many passages in one adapter: right answers in percent\n")
    table(["", "merged by", *(f"{count}" for count in counts), "known towns: several / all"], lines)


def print_seconds(seeds: Sequence[Rows]) -> None:
    """Seconds a passage."""
    lines: list[list[str]] = []
    for name in RECIPES:
        for row in ("seconds together", "seconds one by one"):
            found = [one[f"one {name}", row] for one in seeds if (f"one {name}", row) in one]
            if not found:
                continue
            generated, *trained = (
                fmean(one[kind] for one in found)
                for kind in ("generated", "trained on the passage", "trained on an ideal edit")
            )
            cells = [f"{1000 * each:.1f} ({each / generated:.1f} x)" for each in trained]
            lines.append([f"{name}, {row.removeprefix('seconds ')}", f"{1000 * generated:.2f}", *cells])
    print("Milliseconds a passage until its adapter is in the bank\n")
    table(["", "generated", "inner loop on the passage", "inner loop on an ideal edit"], lines)


def print_contradicted(seeds: Sequence[Rows]) -> None:
    """Changed facts of known towns."""
    keys = ["held_out", "known"]
    lines = [["base", share(seeds, "baselines", "changed towns"), "", share(seeds, "baselines", "known towns")]]
    for row in ("in the prompt of a self-edit", "before the query"):
        lines.append([f"passage in context, {row}", share(seeds, "baselines", f"changed in context, {row}"), "", ""])
    parts = [(f"contradict {name}", name) for name in RECIPES] + [("contradict the inner loop's", "inner loop,")]
    for part, name in parts:
        for row in dict.fromkeys(row for one in seeds for own, row in one if own == part and row != "done"):
            others = [mean(seeds, part, row, key) for key in keys]
            lines.append([f"{name} {row}", share(seeds, part, row), *others])
    print("Changed facts of known towns (the passage's values are right), with layers of the largest change boosted\n")
    table(["", "changed towns", "held-out towns", "other known towns"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--small", action="store_true", help="a short try: few towns, hardly any training")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = SMALL if options.small else WHOLE
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        for waiting in [pool.submit(run_seed, options.out, seed, sizes) for seed in seeds]:
            waiting.result()
    found = read(options.out)
    print(f"\n{len(found)} seeds\n")
    for show in (print_one, print_merged, print_seconds, print_contradicted):
        show(found)


if __name__ == "__main__":
    main()
