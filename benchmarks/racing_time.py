"""Does a race take less time? Processor seconds of an E-step in the lab in full and raced, by the size of its stages.

    OMP_NUM_THREADS=1 python benchmarks/racing_time.py [--seeds 3] [--contexts 6] [--together 0.25 1 2 3 4 6]

One process of one thread; of every seed the same unit is rolled out in full and then raced for half of the trained
tokens, with the settings of configs/quickstart.yaml and three repeats. Seconds are of the processor, so that other work
on the machine counts for less. `same` is the share of the two kept edits that are those of the full E-step.
"""

import argparse
import os
import platform
import time
from dataclasses import replace
from statistics import fmean

import torch

from seal_lightning import (
    EStep,
    ExactMatch,
    InnerLoop,
    Knowledge,
    LocalSampler,
    ModelSource,
    Plan,
    PolicyTuning,
    Reward,
    TunedPolicy,
    best_of,
    load_model,
)
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.variants import step_for
from seal_lightning.lab import LabPassages
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.types import Rollout

KEPT = 2
FULL = Plan(edits=8, repeats=3)
LAB = EStep(
    task=Knowledge(),
    sampler=LocalSampler(top_p=0.98, max_new_tokens=192),
    inner_loop=InnerLoop(
        rank=8, alpha=16, target_modules="all-linear", learning_rate=2.5e-3, schedule="constant", epochs=4,
        max_adapters=48,
    ),
    grader=ExactMatch(),
    reward=Reward("score"),
    plan=FULL,
    max_answer_tokens=4,
)  # fmt: skip


def kept(rollouts: list[Rollout]) -> set[tuple[str, int]]:
    return {(one.context_id, one.edit_index) for group in group_rollouts(rollouts) for one in best_of(group, k=KEPT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=6, help="contexts of the unit")
    parser.add_argument("--together", type=float, nargs="+", default=[0.25, 1.0, 2.0, 3.0, 4.0, 6.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # by which the E-step's phases are timed
    policy = TunedPolicy(*load_model(ModelSource("lab")), PolicyTuning(rank=16, alpha=32), seed=0)
    plans = {"full": FULL} | {
        f"together {value:g}": replace(FULL, racing=Racing(keep=KEPT, together=value)) for value in options.together
    }
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in plans}
    for seed in range(options.seeds):
        contexts, best = LabPassages(count=options.contexts, seed=seed).read(), set[tuple[str, int]]()
        for name, plan in plans.items():
            with policy.frozen() as frozen:
                rollouts = step_for(plan, LAB).run(frozen, contexts, round=0)
            found = kept(rollouts)
            best = best or found
            seconds = sum(rollout.seconds["inner loop"] for rollout in rollouts)
            tokens = sum(rollout.tokens.get("trained", 0) for rollout in rollouts)
            rows[name].append((seconds, tokens, len(found & best) / len(best)))
            print(f"seed {seed}, {name}: {seconds:.1f} s, {tokens} tokens, {rows[name][-1][2]:.0%}", flush=True)
    whole = fmean(seconds for seconds, *_ in rows["full"])
    for name, row in rows.items():
        seconds, tokens, same = (fmean(column) for column in zip(*row, strict=True))
        print(f"{name}: {seconds:.1f} s ({seconds / whole:.0%}), {tokens:,.0f} trained tokens, {same:.0%} the same")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")


if __name__ == "__main__":
    main()
