"""Throughput and memory of the adapter bank against the number of adapters that train at the same time.

    python benchmarks/scaling.py --model lab [--most 256] [--plot FILE.svg] [--json FILE]

Each point is a separate process that trains twice as many jobs as there are slots, with the published mix of lengths,
so that slots are refilled. Peak memory is the run's memory beyond the model itself. "One alone" is the memory of the
first point: an adapter, its gradients and optimizer state, the result, and the activations of its steps; the last
column is what each further adapter adds, as a multiple of it.
"""

import argparse
import ctypes
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import matplotlib
import torch
from shapes import Digits, add_options, draw_jobs, machine, make_model, settings_of

from seal_lightning.policy.policy import Policy
from seal_lightning.processes.allocator import keep_freed_memory

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of a back end without a screen


def measure(options: argparse.Namespace, slots: int) -> dict[str, float]:
    """Measure one point in this process."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model = make_model(options.model, getattr(torch, options.dtype), options.device)
    settings_of(options, 1).adapt(
        Policy(model, Digits(), chat=False), draw_jobs(1, vocabulary=model.config.vocab_size, epochs=1, seed=1)
    )
    ctypes.CDLL(None).malloc_trim(0)  # or the run would partly live on what the warm-up has left
    jobs = draw_jobs(2 * slots, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)
    before = start_counting(options.device)
    started = time.perf_counter()
    stats = settings_of(options, slots).adapt(Policy(model, Digits(), chat=False), jobs).stats
    synchronize(options.device)
    seconds = time.perf_counter() - started
    return {
        "slots": slots,
        "steps_per_s": sum(each.steps for each in stats) / seconds,
        "tokens_per_s": sum(each.trained_tokens for each in stats) / seconds,
        "peak_mb": (peak(options.device) - before) / 1e6,
    }


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def status_of_process(name: str) -> int:
    """VmRSS (memory now) or VmHWM (its peak), in bytes; 0 on systems other than Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def start_counting(device: str) -> int:
    """Start the count of the peak of memory anew; what is in use now, in bytes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what there is now
    return status_of_process("VmRSS")


def peak(device: str) -> int:
    """Most memory since `start_counting`, in bytes."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_of_process("VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--most", type=int, default=256, help="largest number of adapters at the same time")
    parser.add_argument("--plot", help="also draw the table into this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.model}, rank {options.rank}, {options.targets}, {options.dtype}; {machine(options.device)}")
    print("| adapters at a time | adapter-steps/s | tokens/s | peak memory, MB | each further one / one alone |")
    print("|---|---|---|---|---|")
    rows, slots = [], 1
    while slots <= options.most:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            row = pool.submit(measure, options, slots).result()
        rows.append(row)
        alone = rows[0]["peak_mb"]
        grows = f"{(row['peak_mb'] - alone) / (slots - 1) / alone:.2f}" if slots > 1 else "–"
        print(f"| {slots} | {row['steps_per_s']:.1f} | {row['tokens_per_s']:.0f} | {row['peak_mb']:.0f} | {grows} |",
              flush=True)  # fmt: skip
        slots *= 2
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(options.device), "rows": rows}, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot, f"{options.model}, rank {options.rank}, {machine(options.device)}")


def draw(rows: list[dict[str, float]], path: str, title: str) -> None:
    """Plot adapter steps a second and peak memory over the number of adapters."""
    figure, left = pyplot.subplots(figsize=(7, 4))
    slots = [row["slots"] for row in rows]
    left.plot(slots, [row["steps_per_s"] for row in rows], "o-", color="tab:blue")
    left.set(xscale="log", xlabel="adapters at a time", title=title)
    left.set_xticks(slots, [str(slot) for slot in slots])
    left.set_ylabel("adapter-steps/s", color="tab:blue")
    right = left.twinx()
    right.plot(slots, [row["peak_mb"] for row in rows], "s--", color="tab:red")
    right.set_ylabel("peak memory, MB", color="tab:red")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
