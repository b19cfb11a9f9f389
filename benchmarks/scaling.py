"""Throughput and memory of the adapter bank against the number of adapters that train at the same time.

    python benchmarks/scaling.py --model lab [--most 256] [--plot FILE.svg] [--json FILE]

Each point is a process of its own and trains twice as many jobs as there are slots, with the published mix of lengths,
so that slots are refilled. Peak memory is what the run takes above the model itself. "One alone" is what the first
point takes: an adapter, its gradients and optimizer state, the result, and the activations of its steps; the last
column is what each further adapter adds, as a multiple of it.
"""

import argparse
import ctypes
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import matplotlib
import torch
from inner_loop import Digits, Measured, add_options, bank, draw_jobs, machine, make_model, settings_of

from seal_lightning.policy.policy import Policy
from seal_lightning.processes.allocator import keep_freed_memory

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of a back end without a screen


def measure(options: argparse.Namespace, slots: int) -> dict[str, float]:
    """One point, in the process that calls it."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model = make_model(options.model, getattr(torch, options.dtype), options.device)
    settings_of(options, 1).adapt(
        Policy(model, Digits(), chat=False), draw_jobs(1, vocabulary=model.config.vocab_size, epochs=1, seed=1)
    )
    ctypes.CDLL(None).malloc_trim(0)  # or the run would partly live on what the warm-up has left
    jobs = draw_jobs(2 * slots, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)
    measured = Measured()
    bank(model, jobs, settings_of(options, slots), measured)
    return {"slots": slots, "steps_per_s": measured.steps / measured.seconds[0],
            "tokens_per_s": measured.tokens / measured.seconds[0], "peak_mb": measured.peak / 1e6}  # fmt: skip


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
    """Adapter-steps a second and peak memory over the number of adapters."""
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
