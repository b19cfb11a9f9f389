"""E-step throughput with two workers of one thread each over one worker of one thread: DDP ranks and Ray workers.

    python benchmarks/workers.py

Each case is a separate run of the lab. Its E-step is measured, in optimizer steps of adapters a second; the validation
before it starts Ray's workers. In the slow cases one of the two workers is stopped (SIGSTOP) two thirds of the time, so
that it is three times slower. "Two programs" is the machine's own limit: two independent runs side by side over one
alone, without any sharing of work.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from fault_injection import Launch, finished, ray_workers

from seal_lightning.records.journal import read_rollouts


def config(run: Path, *, ranks: int, ray: int | None, units: int) -> dict[str, Any]:
    executor = {"class_path": "seal_lightning.fit.executors.RayExecutor", "init_args": {"workers": ray}}
    return {
        "trainer": {
            "default_root_dir": str(run), "accelerator": "cpu", "devices": ranks, "max_epochs": 1,
            "strategy": "ddp" if ranks > 1 else "auto", "check_val_every_n_epoch": 2,
            **({"executor": executor} if ray else {}),
        },
        "model": {
            "source": {"name": "lab"},
            "sampler": {"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"max_new_tokens": 192}},
            "inner_loop": {"rank": 8, "alpha": 16, "target_modules": "all-linear", "learning_rate": 2e-3, "epochs": 3},
            "grader": "exact_match",
            "e_step": {"edits": 6, "repeats": 1},
            "m_step": {"epochs": 1},
            "max_answer_tokens": 4,
        },
        "data": {
            "class_path": "seal_lightning.lab.LabDataModule",
            "init_args": {"passages": units, "held_out": 6, "contexts_per_unit": 1},
        },
    }  # fmt: skip


def start(run: Path, *, ranks: int = 1, ray: int | None = None, units: int) -> Launch:
    path = run.with_suffix(".json")
    path.write_text(json.dumps(config(run, ranks=ranks, ray=ray, units=units)))
    return Launch(["fit", "--config", path], ranks=ranks, log=run.with_suffix(".log"))


def throughput(run: Path) -> float:
    """Optimizer steps of adapters a second in the E-step that is measured."""
    with next((run / "csv").glob("*/metrics.csv")).open() as file:
        (seconds,) = [float(row["e_step/seconds"]) for row in csv.DictReader(file) if row.get("e_step/seconds")]
    return sum(rollout.steps for rollout in read_rollouts(run / "journal", "train-000")) / seconds


def rank_1(launch: Launch) -> int | None:
    return launch.ranks[1].pid


def ray_worker(launch: Launch) -> int | None:
    """One of the Ray workers, once there are two."""
    with suppress(psutil.Error):
        found = ray_workers(launch.ranks[0].pid)
        return max(found) if len(found) == 2 else None
    return None


@contextmanager
def slowed(launch: Launch, find: Callable[[Launch], int | None]) -> Iterator[None]:
    """Let a process run only a third of the time."""
    over = threading.Event()

    def throttle() -> None:
        while (pid := find(launch)) is None and not over.wait(0.1):
            pass
        while pid is not None and not over.is_set():
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.04)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)
            except ProcessLookupError:
                return

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(folder: Path, name: str, units: int) -> float:
    run = folder / name
    kind, _, slow = name.partition(" ")
    workers = 1 if kind.endswith("1") else 2
    if kind == "programs2":
        pair = [start(folder / f"program-{number}", units=units) for number in range(2)]
        for launch in pair:
            finished(launch)
        return sum(throughput(folder / f"program-{number}") for number in range(2))
    ray = workers if kind.startswith("ray") else None
    launch = start(run, ranks=1 if ray else workers, ray=ray, units=units)
    if slow:
        with slowed(launch, ray_worker if ray else rank_1):
            finished(launch)
    else:
        finished(launch)
    return throughput(run)


CASES = {
    "process1": "one process",
    "programs2": "two programs",
    "ddp2": "two DDP ranks",
    "ddp2 slow": "two DDP ranks, one 3 times slower",
    "ray1": "one Ray worker",
    "ray2": "two Ray workers",
    "ray2 slow": "two Ray workers, one 3 times slower",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many, interleaved")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in options.cases}
    for _ in range(options.repeats):
        for name in options.cases:
            folder = Path(tempfile.mkdtemp(prefix="seal-workers-"))
            found[name].append(measure(folder, name, options.units))
            print(f"{CASES[name]}: {found[name][-1]:.1f} adapter-steps/s", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    print("\n| | adapter-steps/s | times one |\n|---|---|---|")
    rates = {name: median(values) for name, values in found.items()}
    for name, rate in rates.items():
        one = rates.get("ray1" if name.startswith("ray") else "process1")
        print(f"| {CASES[name]} | {rate:.1f} | {rate / one:.2f} |" if one else f"| {CASES[name]} | {rate:.1f} | |")
    print(f"\n{options.units} units, medians of {options.repeats}; {platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
