"""The adapter bank against the best that peft does here with one adapter after another: same jobs, same dtype.

    python benchmarks/inner_loop.py --model lab --jobs 96 --slots 48
    python benchmarks/inner_loop.py --model smollm2-135m --jobs 8 --epochs 1 --rank 32 --targets default
    python benchmarks/inner_loop.py --model qwen2.5-7b --jobs 128 --epochs 1 --rank 32 --targets default --device cuda
    python benchmarks/inner_loop.py --repeats 1 --jobs 8        # to try it

Both sides train whole jobs, all of them, so a ratio of steps and one of tokens are the same. On a CPU each side is
measured as one process with one thread, one process with all threads, and one-thread processes, one for each core; the
jobs are shared out by their tokens. Processes are warmed up, start together, and the clock runs until the last ends.

peft has its options too: float32 products through oneDNN (`set_float32_matmul_precision("medium")`), adapters in
bfloat16 where the base is, attention without SDPA. First every form trains a few jobs; those within a quarter of the
best are then measured in full, interleaved with the bank, `--repeats` times, and medians are printed. On a GPU there is
one process, and peft trains one adapter after another there too: more sequences in a batch would be another training.

Useful FLOP are 4 x the parameters in matrix products x tokens: forward, and the gradient of the inputs. The rates of a
large matrix product are those of torch's own `mm` and of oneDNN on all cores, measured between the repeats. Memory is
what benchmarks/scaling.py measures.
"""

import argparse
import gc
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import peft_loop
import torch
from shapes import Digits, add_options, draw_jobs, machine, make_model, matmul_parameters, settings_of

from seal_lightning.policy.policy import Policy
from seal_lightning.processes.allocator import keep_freed_memory
from seal_lightning.types import AdapterJob

NEAR = 0.75  # of the best form in the trial: such forms are measured in full
# What a good engineer may turn on for peft, by the dtype of the base; how exact products stay is printed (`error_of`).
KNOBS = {"float32": ("onednn", "eager"), "bfloat16": ("bfloat16 adapters", "eager")}


@dataclass(frozen=True)
class Form:
    """A way of doing all jobs."""

    side: str  # peft or bank
    processes: int
    threads: int  # of each process
    knobs: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.processes} processes of one thread" if self.processes > 1 else f"{self.threads} threads"
        return ", ".join([self.side, where.replace("1 threads", "one thread"), *self.knobs])


@dataclass
class Measured:
    """What a form came to; `seconds` has one number for each repeat."""

    steps: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def steps_per_s(self) -> float:
        return self.steps / statistics.median(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / statistics.median(self.seconds)


# -- in a process that trains ----------------------------------------------------------------------------------------


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def turned_on(model: Any, form: Form) -> Iterator[None]:
    """Threads and knobs of a form that concern the whole process."""
    precision = torch.get_float32_matmul_precision()
    attention = model.config._attn_implementation
    torch.set_num_threads(form.threads)
    torch.set_float32_matmul_precision("medium" if "onednn" in form.knobs else precision)
    if "eager" in form.knobs:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        model.set_attn_implementation(attention)


@contextmanager
def trainer_of(model: Any, form: Form, options: argparse.Namespace) -> Iterator[Callable[[Sequence[AdapterJob]], Any]]:
    """A function that trains jobs in this form and returns steps and tokens."""
    settings = settings_of(options, options.slots)
    if form.side == "bank":

        def train(jobs: Sequence[AdapterJob]) -> tuple[int, int]:
            stats = settings.adapt(Policy(model, Digits(), chat=False), jobs).stats
            return sum(each.steps for each in stats), sum(each.trained_tokens for each in stats)

        yield train
        return
    changed = [name for name, module in model.named_modules() if "forward" in vars(module) or module._forward_hooks]
    assert not changed, f"the bank has left its mark on the model that peft is to train: {changed[:3]}"
    wrapped = peft_loop.wrap(model, settings, autocast_adapter_dtype="bfloat16 adapters" not in form.knobs)
    try:
        yield lambda jobs: peft_loop.train_each(wrapped, jobs, settings)
    finally:
        wrapped.unload()


def serve(pipe: Any, barrier: Any, options: argparse.Namespace) -> None:
    """Train what comes through the pipe, each time together with the other processes of the form, until None comes."""
    keep_freed_memory()  # as the command line does
    device = options.device
    model = make_model(options.model, getattr(torch, options.dtype), device)
    jobs = draw_jobs(options.jobs, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)
    warm_up = draw_jobs(2, vocabulary=model.config.vocab_size, epochs=1, seed=options.seed + 1)
    warm_up = [AdapterJob(job.training_sequences[:4], seed=0, directives=job.directives) for job in warm_up]
    pipe.send(matmul_parameters(model))
    while (order := pipe.recv()) is not None:
        if callable(order):
            torch.set_num_threads(options.threads)
            pipe.send(order(options.dtype, device))
            continue
        form, share = order
        with turned_on(model, form), trainer_of(model, form, options) as train:
            train(warm_up)
            gc.collect()
            synchronize(device)
            if form.processes > 1:
                barrier.wait()
            started = time.perf_counter()
            done = train([jobs[number] for number in share])
            synchronize(device)
            ended = time.perf_counter()
        pipe.send((*done, started, ended))


def gemm_rates(dtype: str, device: str) -> dict[str, float]:
    """FLOP/s of one large matrix product, by who makes it."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    ways: dict[str, Callable[[], torch.Tensor]] = {"mm": lambda: a @ b}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        ways["onednn"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(6):
        for name, product in ways.items():
            synchronize(device)
            started = time.perf_counter()
            product()
            synchronize(device)
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: 2 * size**3 / seconds for name, seconds in best.items()}


def error_of(dtype: str, device: str) -> dict[str, float]:
    """Relative error of a matrix product as torch makes it and with the knob `onednn`, against float64."""
    a, b = (torch.randn(512, 512, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    exact, found = a.double() @ b.double(), {}
    before = torch.get_float32_matmul_precision()
    for name, precision in (("mm", before), ("onednn", "medium")):
        torch.set_float32_matmul_precision(precision)
        found[name] = float(((a @ b).double() - exact).norm() / exact.norm())
    torch.set_float32_matmul_precision(before)
    return found


# -- in the process that measures -----------------------------------------------------------------------------------


class Workers:
    """Processes with a model each, which do one form at a time; used with `with`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        context = multiprocessing.get_context("spawn")
        count = 1 if options.device == "cuda" else options.threads
        barrier = context.Barrier(count)
        self.pipes, self.processes = [], []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, barrier, options), daemon=True)
            process.start()
            there.close()  # so that a process that dies is an EOFError here
            self.pipes.append(here)
            self.processes.append(process)
        self.parameters = [pipe.recv() for pipe in self.pipes].pop()  # in matrix products

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join()

    def ask(self, work: Callable[[str, str], dict[str, float]]) -> dict[str, float]:
        """What a function of dtype and device finds in the first process, with all threads."""
        self.pipes[0].send(work)
        return self.pipes[0].recv()

    def train(self, form: Form, jobs: Sequence[int], costs: Sequence[int], measured: Measured) -> None:
        """Train the jobs with these numbers, and add a repeat to `measured`."""
        pipes = self.pipes[: form.processes]
        for pipe, share in zip(pipes, shares(jobs, costs, form.processes), strict=True):
            pipe.send((form, share))
        steps, tokens, started, ended = zip(*(pipe.recv() for pipe in pipes), strict=True)
        measured.steps, measured.tokens = sum(steps), sum(tokens)
        measured.seconds.append(max(ended) - min(started))


def shares(jobs: Sequence[int], costs: Sequence[int], count: int) -> list[list[int]]:
    """The jobs in `count` parts of about the same cost, each in order: the dearest first, to who has least."""
    parts: list[list[int]] = [[] for _ in range(count)]
    for job in sorted(jobs, key=lambda job: -costs[job]):
        min(parts, key=lambda part: sum(costs[mine] for mine in part)).append(job)
    return [sorted(part) for part in parts]


def layouts(side: str, options: argparse.Namespace) -> list[Form]:
    if options.device == "cuda":
        return [Form(side, 1, options.threads)]
    forms = [Form(side, 1, 1), Form(side, 1, options.threads), Form(side, options.threads, 1)]
    return list(dict.fromkeys(forms))


def try_out(workers: Workers, options: argparse.Namespace, costs: Sequence[int]) -> list[Form]:
    """The forms of peft that are worth measuring: each trains some jobs, twice in turn."""
    few = range(min(len(costs), options.trial_jobs))
    found: dict[Form, Measured] = {form: Measured() for form in layouts("peft", options)}

    def run(forms: Sequence[Form]) -> Form:
        for _ in range(2):
            for form in forms:
                workers.train(form, few, costs, found[form])
        return min(found, key=lambda form: min(found[form].seconds))

    best = run(list(found))
    for knob in KNOBS[options.dtype]:
        tried = Form("peft", best.processes, best.threads, (*best.knobs, knob))
        found[tried] = Measured()
        best = run([best, tried])
    least = min(found[best].seconds)
    for form, measured in found.items():
        print(f"  tried {form}: {measured.tokens / min(measured.seconds):.0f} tokens/s", flush=True)
    near = [form for form, measured in found.items() if min(measured.seconds) * NEAR <= least]
    return near if options.all_forms is False else list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--slots", type=int, help="adapters at the same time; the inner loop's own choice by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trial_jobs", type=int, default=4, help="jobs that every form of peft is tried with")
    parser.add_argument(
        "--all_forms", action="store_true", help="measure every form in full, however slow in the trial"
    )
    parser.add_argument(
        "--official_steps", type=int, default=0, help="also so many steps as the research code makes them"
    )
    options = parser.parse_args()
    with Workers(options) as workers:
        measure(workers, options)


def measure(workers: Workers, options: argparse.Namespace) -> None:
    jobs = draw_jobs(options.jobs, vocabulary=100, epochs=options.epochs, seed=options.seed)
    costs = [sum(len(sequence.text.split()) for sequence in job.training_sequences) for job in jobs]
    print(f"{options.model}, rank {options.rank}, {options.targets}, {options.dtype}; {options.jobs} jobs x "
          f"{options.epochs} epochs; {machine(options.device)}; torch {torch.__version__}", flush=True)  # fmt: skip
    forms = [*try_out(workers, options, costs), *layouts("bank", options)]
    found = {form: Measured() for form in forms}
    rates: list[dict[str, float]] = []
    for _ in range(options.repeats):
        rates.append(workers.ask(gemm_rates))
        for form in forms:
            workers.train(form, range(options.jobs), costs, found[form])
    assert len({(measured.steps, measured.tokens) for measured in found.values()}) == 1, (
        "not the same jobs on both sides"
    )
    medians = {name: statistics.median(rate[name] for rate in rates) for name in rates[0]}
    print_result(workers, options, found, medians)


def print_result(
    workers: Workers, options: argparse.Namespace, found: dict[Form, Measured], rates: dict[str, float]
) -> None:
    best = {side: max((form for form in found if form.side == side), key=lambda form: found[form].tokens_per_s)
            for side in ("peft", "bank")}  # fmt: skip
    flop = 4 * workers.parameters
    names = " | ".join(f"share of {name}'s {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    print(f"| | adapter-steps/s | tokens/s | {names} | times the best of peft |")
    print("|---|---|---|" + "---|" * len(rates) + "---|")
    rows = {}
    for form, measured in found.items():
        shares_of = {name: measured.tokens_per_s * flop / rate for name, rate in rates.items()}
        ratio = measured.tokens_per_s / found[best["peft"]].tokens_per_s
        rows[str(form)] = {**asdict(form), **asdict(measured), "steps_per_s": measured.steps_per_s,
                           "tokens_per_s": measured.tokens_per_s, "share": shares_of, "ratio": ratio}  # fmt: skip
        print(f"| {form} | {measured.steps_per_s:.1f} | {measured.tokens_per_s:.0f} | "
              + " | ".join(f"{share:.0%}" for share in shares_of.values())
              + f" | {ratio:.3g} |")  # fmt: skip
    ratio = found[best["bank"]].tokens_per_s / found[best["peft"]].tokens_per_s
    share = found[best["bank"]].tokens_per_s * flop / max(rates.values())
    steps, tokens = found[best["bank"]].steps, found[best["bank"]].tokens
    print(f"best of the bank ({best['bank']}) is {ratio:.2f} times the best of peft ({best['peft']}), {share:.0%} of "
          f"the faster matrix product; medians of {options.repeats}; the same {steps} steps and {tokens} tokens in "
          "every form")  # fmt: skip
    errors = workers.ask(error_of)
    print("relative error of a product: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    if options.official_steps:
        print_official(options, found[best["bank"]].steps_per_s)
    if options.json:
        used = {name: str(value) for name, value in vars(options).items()}
        result = {"options": used, "machine": machine(options.device), "matmul": rates, "errors": errors,
                  "best": {side: str(form) for side, form in best.items()}, "ratio": ratio, "forms": rows}  # fmt: skip
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def print_official(options: argparse.Namespace, bank: float) -> None:
    """A few steps of the research code, in this process and with all threads."""
    torch.set_num_threads(options.threads)
    model = make_model(options.model, getattr(torch, options.dtype), options.device)
    job = draw_jobs(1, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)[0]
    each = peft_loop.train_official(model, job, settings_of(options, None), options.official_steps)
    print(f"as the research code trains, padded to 2,048 tokens: {1 / each:.2f} adapter-steps/s; the bank makes "
          f"{bank * each:.0f} times as many")  # fmt: skip


if __name__ == "__main__":
    main()
