"""What each choice of the inner loop gains: the same jobs with it and without it, interleaved in one run.

    python benchmarks/choices.py --model lab --jobs 48 --slots 16
    python benchmarks/choices.py --model smollm2-135m --jobs 8 --epochs 1 --targets default --rank 32

The ratio is the time without over the time with. "Without" is

packing          every sequence of a step padded to the longest one
groups           a group, and its products, for every sequence
own attention    transformers' mask over all pairs of tokens of the row
slot refill      as many jobs as slots, and new ones only once all of them have ended
oneDNN           torch's own products for frozen weights
fused step       torch's AdamW one tensor and one operation at a time
chunked loss     logits of all tokens at once
kept memory      freed memory goes back to the system at once
compiled norms   the other way round: "with" has torch.compile make one kernel of every normalisation layer
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from shapes import Digits, add_options, draw_jobs, machine, make_model, settings_of

from seal_lightning.inner_loop import packing, slots
from seal_lightning.inner_loop.isolation import training
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models import products
from seal_lightning.policy.policy import Policy
from seal_lightning.processes import allocator
from seal_lightning.types import AdapterJob

Adapt = Callable[[Any, Sequence[AdapterJob], InnerLoop], None]


def adapt(model: Any, jobs: Sequence[AdapterJob], settings: InnerLoop) -> None:
    settings.adapt(Policy(model, Digits(), chat=False), jobs)


def in_waves(model: Any, jobs: Sequence[AdapterJob], settings: InnerLoop) -> None:
    """Train as many jobs at a time as there are slots."""
    size = settings.slots(model)
    for start in range(0, len(jobs), size):
        adapt(model, jobs[start : start + size], settings)


def only(rows: str) -> Any:
    """Let sequences share a pass in one way alone."""
    return mock.patch.object(slots, "training_way", lambda *_, **__: training.TrainingWay(rows))


class StepByStep(torch.optim.AdamW):
    """AdamW that is not fused, and so does not know how to leave a step out."""

    def step(self, closure: Any = None) -> Any:
        self.found_inf = None
        return super().step(closure)


def plain_adamw(groups: Any, *, fused: bool, **options: Any) -> torch.optim.Optimizer:
    return StepByStep(groups, foreach=False, **options)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Allocate memory by the C library's defaults."""
    libc = ctypes.CDLL(None)
    libc.mallopt(allocator._MMAP_MAX, 65536)
    libc.mallopt(allocator._TRIM_THRESHOLD, 128 << 10)
    libc.mallopt(allocator._TOP_PAD, 128 << 10)
    libc.malloc_trim(0)
    try:
        yield
    finally:
        allocator.keep_freed_memory()


@contextmanager
def compiled_norms(model: Any) -> Iterator[None]:
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    for norm in norms:
        norm.forward = torch.compile(type(norm).forward.__get__(norm), dynamic=True)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--jobs", type=int, default=48)
    parser.add_argument("--slots", type=int, help="adapters at the same time; the inner loop's own choice by default")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    allocator.keep_freed_memory()
    torch.set_num_threads(options.threads)
    model = make_model(options.model, getattr(torch, options.dtype), options.device)
    settings = settings_of(options, options.slots)
    jobs = draw_jobs(options.jobs, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)
    ways: dict[str, tuple[Callable[[], Any], Adapt]] = {
        "as it is": (nullcontext, adapt),
        "packing": (lambda: only("padded"), adapt),
        "groups": (lambda: mock.patch.object(packing, "_GROUP", 0), adapt),
        "own attention": (lambda: mock.patch.object(training, "replaceable", lambda model: False), adapt),
        "slot refill": (nullcontext, in_waves),
        "oneDNN": (lambda: mock.patch.object(products, "_has_onednn", lambda: False), adapt),
        "fused step": (lambda: mock.patch("torch.optim.AdamW", plain_adamw), adapt),
        "chunked loss": (lambda: mock.patch("seal_lightning.inner_loop.loss._plain_head", lambda *_: None), adapt),
        "kept memory": (memory_given_back, adapt),
        "compiled norms": (lambda: compiled_norms(model), adapt),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, (switched, way) in ways.items():
            with switched():
                if not repeat:  # first calls are slow: thread pools, kernels, compilation
                    way(model, jobs[:2], settings)
                    continue
                started = time.perf_counter()
                way(model, jobs, settings)
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    plain = medians.pop("as it is")
    print(f"{options.model}, rank {options.rank}, {options.targets}, {options.dtype}; {options.jobs} jobs, "
          f"{settings.slots(model)} at a time; medians of {options.repeats}; {machine(options.device)}")  # fmt: skip
    print("| choice | with, s | without, s | ratio |\n|---|---|---|---|")
    for name, found in medians.items():
        on, off = (found, plain) if name == "compiled norms" else (plain, found)
        print(f"| {name} | {on:.1f} | {off:.1f} | {off / on:.2f} |")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(options.device), "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
