"""The figures of benchmarks/gpu_check.py: what a GPU does alone, a step of the bank, decoding, and a whole round."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest import mock

import peft_loop
import torch
from peft_loop import batches_of
from shapes import Digits, draw_jobs, make_model, matmul_parameters
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.models.kernels import planless_attention
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate
from seal_lightning.sampling.sampler import LocalSampler
from seal_lightning.types import AdapterJob

# Milliseconds a step of 64 slots and times sequential peft, as benchmarks/predicted.py prints them; 40 % either way.
PREDICTED = {
    ("qwen2.5-7b", "default"): (226, 12.8),
    ("qwen2.5-3b", "default"): (141, 25.5),
    ("qwen2.5-0.5b", "default"): (47, 51.4),
    ("qwen2.5-7b", "all-linear"): (320, 14.4),
    ("qwen2.5-3b", "all-linear"): (211, 27.2),
    ("qwen2.5-0.5b", "all-linear"): (68, 57.3),
}
# A round of configs/knowledge/qwen2.5-7b.yaml: 50 contexts x 5 edits x 3 repeats, with lengths as published.
TRAINED_TOKENS, SAMPLED_STEPS, ANSWERS, ANSWER_TOKENS = 3.25e6, 2200, 3900, 64


class EnoughError(Exception):
    """Ends a training after some steps."""


def settings_of(rank: int, targets: str = "default", **more: Any) -> InnerLoop:
    return InnerLoop(rank=rank, alpha=2 * rank, target_modules=targets, **{"epochs": 2, **more})


def jobs_of(count: int, *, epochs: int = 1, seed: int = 0) -> list[AdapterJob]:
    return draw_jobs(count, vocabulary=1000, epochs=epochs, seed=seed)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def forget(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def clock(device: str, work: Callable[[], object], repeats: int = 5, warm: int = 2) -> float:
    """Median seconds."""
    for _ in range(warm):
        work()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative difference."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def machine(check: Any) -> None:
    import transformers

    device = check.options.device
    check.note("versions", f"torch {torch.__version__}, transformers {transformers.__version__}")
    if device == "cpu":
        return
    check.note("gpu", f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB")
    check.note("cudnn", torch.backends.cudnn.version())
    q = torch.randn(2, 4, 64, 128, device=device, dtype=torch.bfloat16)
    functional.scaled_dot_product_attention(q, q, q, is_causal=True)  # the order is set at the first call
    order = getattr(torch._C, "_get_sdp_priority_order", lambda: "unknown")()
    check.note(
        "order of attention (0 math, 1 flash, 2 efficient, 3 cuDNN)", order, "3 first on Hopper with cuDNN from 9.15"
    )
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    check.within("bfloat16, TFLOP/s", 2 * 8192**3 / clock(device, lambda: a @ b, 8) / 1e12, 700, 830)
    a, b = a[:4096, :4096].float(), b[:4096, :4096].float()
    check.within("float32, TFLOP/s", 2 * 4096**3 / clock(device, lambda: a @ b) / 1e12, 42, 60)
    with tf32(True):
        check.within("TF32, TFLOP/s", 2 * 4096**3 / clock(device, lambda: a @ b) / 1e12, 320, 450)
    c = torch.empty(1 << 30, device=device)
    d = torch.empty_like(c)
    check.within("copy, TB/s", 8 * (1 << 30) / clock(device, lambda: d.copy_(c)) / 1e12, 2.7, 4.5)
    x = torch.zeros(16, device=device)
    seconds = clock(device, lambda: [x.add_(1.0) for _ in range(1000)], 3)
    check.within("microseconds a launch from Python", seconds * 1e3, 2.5, 7)


def plans_of_attention(check: Any) -> None:
    """What a new shape costs: cuDNN builds a plan for each, and every step of the bank has new ones."""
    device, draw = check.options.device, random.Random(1)
    largest, size = (40, 128) if device == "cuda" else (3, 8)
    for name, way, most in (("as torch chooses", nullcontext, None), ("as here", planless_attention, 5.0)):
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(8):
            n, length = draw.randint(2, largest), draw.randint(20, 300)
            q, k, v = (
                torch.randn(n, length, heads, size, device=device, dtype=torch.bfloat16)
                .transpose(1, 2)
                .requires_grad_()
                for heads in (28, 4, 4)
            )
            for times in seconds:
                synchronize(device)
                started = time.perf_counter()
                with way(torch.device(device)) if way is planless_attention else way():
                    functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()
                synchronize(device)
                times.append((time.perf_counter() - started) * 1e3)
        first, later = map(statistics.median, seconds)
        expected = "30 to 1000 for the first where cuDNN is, 0.2 for the second" if most is None else "both below 5"
        ok = None if most is None or device == "cpu" else max(first, later) < most
        check.note(
            f"attention, {name}: ms for the first call of a shape, for the second",
            f"{first:.2f}, {later:.2f}",
            expected,
            ok,
        )


def products(check: Any) -> None:
    """The products of LoRA at the widths of Qwen2.5-7B, 64 adapters of rank 32, lengths as published."""
    device, slots, draw = check.options.device, 64, random.Random(0)
    lengths = [len(draw.choice(job.training_sequences).text.split()) for job in jobs_of(slots, seed=3)]
    ends = torch.tensor(lengths).cumsum(0).to(torch.int32).to(device)
    places = torch.cat([torch.arange(length) + number * max(lengths) for number, length in enumerate(lengths)]).to(
        device
    )

    def pad(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(slots * max(lengths), x.shape[1]).index_copy_(0, places, x).view(slots, -1, x.shape[1])

    def padded(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return torch.bmm(pad(x), m).flatten(0, 1).index_select(0, places)

    def padded_outer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.bmm(pad(x).transpose(1, 2), pad(y))

    def grouped(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(x, m, offs=ends)

    def grouped_outer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(x.t(), y, offs=ends)

    def six(
        tensors: Sequence[torch.Tensor], product: Callable[..., Any], outer: Callable[..., Any]
    ) -> list[torch.Tensor]:
        x, g, a, b = tensors
        narrow, back = product(x, a.transpose(1, 2)), product(g, b.transpose(1, 2))
        return [product(narrow, b), product(back, a), outer(back, x), outer(narrow, g)]

    check.note("tokens; padded to", f"{sum(lengths)}; {slots * max(lengths)}")
    widths = [(3584, 3584), (3584, 18944)] if device == "cuda" else [(64, 96)]
    expected = {
        "float32, padded": (1, 14),  # 1.5 ms on an H200 at the smaller widths
        "TF32, padded": (1, 8),
        "bfloat16, padded": (0.6, 3.5),
        "bfloat16, grouped": (0.2, 1.2),
    }
    for inputs, outputs in widths:
        sizes = ((sum(lengths), inputs), (sum(lengths), outputs), (slots, 32, inputs), (slots, 32, outputs))
        full = [torch.randn(size, device=device) / size[-1] ** 0.5 for size in sizes]
        half = [tensor.bfloat16() for tensor in full]
        exact = six(full, padded, padded_outer)
        for name, (low, high) in expected.items():
            tensors = half if "bfloat16" in name else full
            ways = (grouped, grouped_outer) if "grouped" in name else (padded, padded_outer)
            with tf32("TF32" in name):
                seconds = clock(device, lambda tensors=tensors, ways=ways: six(tensors, *ways))
                error = max(map(apart, six(tensors, *ways), exact))
            check.within(f"six products {inputs} x {outputs}, {name}, ms", seconds * 1e3, low, high)
            check.note(f"six products {inputs} x {outputs}, {name}, relative error", f"{error:.1e}")


@contextmanager
def each_step(stepped: Callable[[], None]) -> Iterator[None]:
    """Be told of every optimizer step of all adapters; `on_step` speaks of several that a GPU has been given."""
    step = AdapterBank.step

    def told(*args: Any, **options: Any) -> None:
        step(*args, **options)
        stepped()

    with mock.patch.object(AdapterBank, "step", told):
        yield


def step_times(model: Any, settings: InnerLoop, slots: int, steps: int, seed: int = 0) -> tuple[list[float], int]:
    """Seconds of each of the first steps but the very first, with all slots full, and their tokens in all."""
    jobs, stamps = jobs_of(slots, epochs=4, seed=seed), []
    device = model.device.type

    def stepped() -> None:
        synchronize(device)
        stamps.append(time.perf_counter())
        if len(stamps) > steps:
            raise EnoughError

    with suppress(EnoughError), each_step(stepped):
        settings.adapt(Policy(model, Digits(), chat=False), jobs)
    batches = [batch for job in jobs for batch in list(batches_of(job, settings, steps + 1))[1:]]
    seconds = [later - earlier for earlier, later in pairwise(stamps)]
    return seconds, sum(len(sequence) for batch in batches for sequence in batch)


def bank(check: Any, name: str, rank: int, targets: str) -> Any:
    """The bank against sequential peft, without cuDNN's attention and with TF32; returns the model."""
    options = check.options
    model = make_model(name, torch.bfloat16 if options.device == "cuda" else torch.float32, options.device)
    settings = settings_of(rank, targets, max_adapters=options.slots, epochs=4)
    wrapped = peft_loop.wrap(model, settings)
    peft_loop.train_each(wrapped, jobs_of(1, seed=9), settings, 4)
    synchronize(options.device)
    started = time.perf_counter()
    steps, _ = peft_loop.train_each(wrapped, jobs_of(2), settings, 10)
    synchronize(options.device)
    alone = (time.perf_counter() - started) / steps
    wrapped.unload()
    what = f"{name} r{rank} {targets}"
    check.note(f"{what}: sequential peft, ms a step", round(alone * 1e3, 1))
    ms, times = PREDICTED.get((name, targets), (math.nan, math.nan))
    for exact in (True, False):
        forget(options.device)
        with tf32(not exact):
            seconds, tokens = step_times(model, settings, options.slots, options.steps)
        per_step, rate = statistics.median(seconds), tokens / sum(seconds)
        way = f"{what}, {options.slots} slots" + ("" if exact else ", TF32")
        if not exact:
            check.note(f"{way}: ms a step", round(per_step * 1e3, 1))
            continue
        check.rates[name, targets] = rate
        check.within(f"{way}: ms a step", per_step * 1e3, 0.6 * ms, 1.4 * ms)
        check.within(f"{way}: times sequential", options.slots * alone / per_step, 0.6 * times, 2 * times)
        check.note(f"{way}: tokens/s, TFLOP/s", f"{rate:.0f}, {rate * 4 * matmul_parameters(model) / 1e12:.0f}")
    return model


def counts(check: Any, model: Any) -> None:
    """Launches, copies and waits of two steps, and where their time goes (profile.txt)."""
    device, slots = check.options.device, check.options.slots
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    settings = settings_of(32, max_adapters=slots, epochs=4)
    found: list[dict[str, int]] = []
    for steps in (1, 2):  # the difference is one step, without the start
        with profile(activities=activities) as profiled:
            step_times(model, settings, slots, steps)
        averages = profiled.key_averages()
        found.append({name: sum(event.count for event in averages if name in event.key)
                      for name in ("LaunchKernel", "Memcpy HtoD", "Memcpy DtoD", "StreamSynchronize")})  # fmt: skip
    order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    check.options.out.mkdir(parents=True, exist_ok=True)
    (check.options.out / "profile.txt").write_text(
        averages.table(sort_by=order, row_limit=60, max_name_column_width=80)
    )
    one = {name: found[1][name] - found[0][name] for name in found[0]}
    for name, low, high in (("LaunchKernel", 3000, 8000), ("Memcpy HtoD", 0, 12), ("StreamSynchronize", 0, 3)):
        check.within(f"one step: {name}", one[name], low, high)
    check.note("one step: Memcpy DtoD", one["Memcpy DtoD"])  # copies within the device; cudaMemcpyAsync makes both


def decoding(check: Any, model: Any) -> None:
    """Milliseconds a token of answering with adapters and of sampling, and of choosing a token."""
    device = check.options.device
    model.generation_config.eos_token_id = None
    policy = Policy(model, SimpleNamespace(pad_token_id=0, eos_token_id=None), chat=False)
    adapters = AdapterBank(model, slots=16, rank=32, alpha=64, trainable=False)
    for slot in range(16):
        adapters.reset(slot, seed=slot)
    trained, draw = TrainedBank(adapters, ()), random.Random(0)
    new, rows = (24, 256) if device == "cuda" else (3, 8)
    prompts = [[draw.randrange(3, 900) for _ in range(draw.randint(16, 60))] for _ in range(rows)]

    def answer(tokens: int) -> None:
        with trained.answering([row * 16 // rows for row in range(rows)]) as active:
            generate(policy, prompts, max_new_tokens=tokens, on_keep=active.keep)

    def sample(tokens: int) -> None:
        generate(policy, prompts, max_new_tokens=tokens, choose=LocalSampler()._choose(range(rows)))

    def continue_greedily(tokens: int) -> None:
        generate(policy, prompts, max_new_tokens=tokens)

    ways = (("answering with 16 adapters", answer, 20, 45), ("continuing", continue_greedily, 15, 40),
            ("sampling", sample, 15, 45))  # fmt: skip
    for name, work, low, high in ways:
        seconds = clock(device, lambda work=work: work(new), 1, 1) - clock(device, lambda work=work: work(1), 1, 1)
        check.rates[name] = seconds / (new - 1)
        check.within(f"{name}, {rows} rows: ms a token", seconds / (new - 1) * 1e3, low, high)
    drawn = (check.rates["sampling"] - check.rates["continuing"]) * 1e3
    check.within(f"drawing a token for {rows} rows instead of taking the likeliest, ms", drawn, -2, 12)
    one = AdapterBank(model, slots=1, rank=32, alpha=64, target_modules="all-linear", trainable=False)
    check.within("drawing one adapter, all layers, ms", clock(device, lambda: one.reset(0, seed=1), 3, 1) * 1e3, 0, 130)


def a_round(check: Any, name: str) -> None:
    """A round of the paper's size, put together from what was measured."""
    rate = check.rates.get((name, "default"))
    if rate is None or "sampling" not in check.rates:
        return check.note("a round", "not all of its parts were measured")
    batches = -(-ANSWERS // 256)
    parts = {
        "training": TRAINED_TOKENS / rate,
        "sampling": SAMPLED_STEPS * check.rates["sampling"],
        "answers": batches * ANSWER_TOKENS * check.rates["answering with 16 adapters"],
    }
    check.note(
        f"a round of {name}, projected, s", ", ".join(f"{part} {seconds:.0f}" for part, seconds in parts.items())
    )
    check.within(f"a round of {name}, projected, minutes", sum(parts.values()) / 60, 3, 10)
