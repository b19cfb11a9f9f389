"""The adapter bank against training one adapter after another: the same jobs, interleaved, in one run.

    python benchmarks/inner_loop.py --model lab --jobs 64
    python benchmarks/inner_loop.py --model smollm2-135m --jobs 32 --threads 2 --json FILE
    python benchmarks/inner_loop.py --model qwen2.5-7b --jobs 128 --device cuda --dtype bfloat16

(a) sequential: peft and torch's AdamW, one adapter at a time, batches padded to their longest sequence only
(b) official: transformers' Trainer, one adapter at a time, every sequence padded to 2,048 tokens; some steps, scaled
(c) the bank; and, on a CPU with `--processes N`, N banks in one-thread processes that share the jobs, as ranks do

Models have random weights unless a folder is given: speed does not depend on them. Jobs have the lengths of published
self-edits (50 passages x 5 edits of rank_iter0.json of the SEAL repository, MIT; counted in tokens of SmolLM2).
Useful FLOP are 4 x the parameters in matrix products x tokens: forward, and the gradient of the inputs. Each of the
`--repeats` does a share of (a), (b) and (c) after one another, and medians are printed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Trainer, TrainingArguments

from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.allocator import keep_freed_memory
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

LLAMA, QWEN = LlamaConfig, Qwen2Config
SHAPES: dict[str, tuple[Any, dict[str, int]]] = {
    "lab": (LLAMA, dict(vocab_size=1024, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
                        num_key_value_heads=4, intermediate_size=320)),
    "lab-4m": (LLAMA, dict(vocab_size=1024, hidden_size=256, num_hidden_layers=5, num_attention_heads=4,
                           num_key_value_heads=4, intermediate_size=640)),
    "smollm2-135m": (LLAMA, dict(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                                 num_key_value_heads=3, intermediate_size=1536)),
    "qwen2.5-0.5b": (QWEN, dict(vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
                                num_key_value_heads=2, intermediate_size=4864)),
    "qwen2.5-3b": (QWEN, dict(vocab_size=151936, hidden_size=2048, num_hidden_layers=36, num_attention_heads=16,
                              num_key_value_heads=2, intermediate_size=11008)),
    "qwen2.5-7b": (QWEN, dict(vocab_size=152064, hidden_size=3584, num_hidden_layers=28, num_attention_heads=28,
                              num_key_value_heads=4, intermediate_size=18944)),
}  # fmt: skip
TIED = ("lab", "lab-4m", "smollm2-135m", "qwen2.5-0.5b", "qwen2.5-3b")

# Histograms of the published edits: how many lines an edit has, and tokens of a line or a passage under its title.
LINES = {3: 11, 4: 19, 5: 58, 6: 41, 7: 30, 8: 31, 9: 16, 10: 22, 11: 4, 12: 3, 13: 1, 15: 1, 16: 1, 18: 1, 21: 3,
         22: 1, 24: 2, 26: 1, 29: 1, 35: 2, 66: 1}  # fmt: skip
LINE_TOKENS = {8: 32, 12: 22, 16: 127, 20: 160, 24: 368, 28: 210, 32: 346, 36: 146, 40: 184, 44: 75, 48: 91, 52: 27,
               56: 50, 60: 16, 64: 16, 68: 6, 72: 12, 76: 9, 80: 5, 92: 3, 96: 2, 104: 3, 112: 2, 120: 3, 132: 1,
               160: 2, 184: 3, 188: 2, 200: 2, 216: 4}  # fmt: skip
PASSAGE_TOKENS = {40: 1, 48: 1, 72: 1, 96: 1, 104: 1, 112: 1, 120: 4, 128: 1, 136: 1, 144: 6, 152: 4, 160: 3, 168: 3,
                  176: 4, 184: 1, 200: 2, 208: 2, 216: 3, 224: 1, 232: 2, 240: 2, 272: 2, 320: 2, 376: 1}  # fmt: skip


class Digits:
    """A tokenizer for texts that are token numbers: lengths are what matters here."""

    eos_token_id = None
    pad_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [int(token) for token in text.split() if token.isdigit()]}


@dataclass
class Measured:
    """One way of training, repeat by repeat."""

    steps: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def per_step(self) -> float:
        return statistics.median(self.seconds) / self.steps


def draw_jobs(count: int, *, vocabulary: int, epochs: int, seed: int) -> list[AdapterJob]:
    """Jobs with the published mix of lengths."""
    draw = random.Random(seed)

    def of(histogram: dict[int, int]) -> int:
        return draw.choices(list(histogram), weights=list(histogram.values()))[0]

    def sequence(length: int) -> TrainingSequence:
        return TrainingSequence(" ".join(str(draw.randrange(3, vocabulary)) for _ in range(length)))

    jobs = []
    for number in range(count):
        lengths = [of(LINE_TOKENS) for _ in range(of(LINES))] + [of(PASSAGE_TOKENS)]
        jobs.append(AdapterJob(tuple(map(sequence, lengths)), seed=number, directives=Directives(epochs=epochs)))
    return jobs


def make_model(name: str, dtype: torch.dtype, device: str) -> Any:
    """A built-in shape with random weights, or the model of a folder."""
    if name not in SHAPES:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    else:
        make, sizes = SHAPES[name]
        config = make(**sizes, max_position_embeddings=4096, tie_word_embeddings=name in TIED)
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def batches_of(job: AdapterJob, settings: InnerLoop, limit: int) -> Iterator[list[list[int]]]:
    """The job's minibatches in order, at most `limit`."""
    draw, made = random.Random(job.seed), 0
    tokens = [[int(token) for token in sequence.text.split()] for sequence in job.training_sequences]
    for _ in range(job.directives.epochs or settings.epochs):
        order = list(range(len(tokens)))
        draw.shuffle(order)
        for at in range(0, len(order), settings.batch_size):
            if made == limit:
                return
            made += 1
            yield [tokens[index] for index in order[at : at + settings.batch_size]]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def status_of_process(name: str) -> int:
    """VmRSS (memory now) or VmHWM (its peak), in bytes; 0 where the system is not Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


@contextmanager
def watched(measured: Measured, device: str) -> Iterator[None]:
    """Add the seconds of a block to `measured`, and note the peak of memory above what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what there is now
        before = status_of_process("VmRSS")
    synchronize(device)
    started = time.perf_counter()
    yield
    synchronize(device)
    measured.seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else status_of_process("VmHWM")
    measured.peak = max(measured.peak, peak - before)


def lora(model: Any, settings: InnerLoop) -> Any:
    names = [target.name for target in find_targets(model, settings.target_modules)]
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names)  # type: ignore[arg-type]
    return get_peft_model(model, config)


def sequential(model: Any, jobs: Sequence[AdapterJob], settings: InnerLoop, limit: int, measured: Measured) -> None:
    """(a): at most `limit` steps of every job, one adapter after another."""
    wrapped, device = lora(model, settings), next(model.parameters()).device
    measured.steps = measured.tokens = 0
    with watched(measured, device.type):
        for job in jobs:
            for layer in wrapped.modules():
                if hasattr(layer, "reset_lora_parameters"):
                    layer.reset_lora_parameters("default", True)
            parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
            for batch in batches_of(job, settings, limit):
                longest = max(map(len, batch))
                ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=device)
                labels = torch.tensor([row + [-100] * (longest - len(row)) for row in batch], device=device)
                mask = (labels >= 0).long()
                wrapped(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
                if settings.gradient_clip:
                    nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                measured.steps += 1
                measured.tokens += sum(map(len, batch))
    wrapped.unload()


def official(model: Any, jobs: Sequence[AdapterJob], settings: InnerLoop, steps: int, measured: Measured) -> None:
    """(b): `steps` steps of the first job as the research code makes them."""
    wrapped = lora(model, settings)
    rows = [row for batch in batches_of(jobs[0], settings, steps) for row in batch]
    padded = [{"input_ids": (ids := row + [0] * (2048 - len(row))), "labels": ids} for row in rows]
    device = next(model.parameters()).device.type
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=1, learning_rate=settings.learning_rate,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device == "cpu",
        )  # fmt: skip
        trainer = Trainer(model=wrapped, args=arguments, train_dataset=padded)  # type: ignore[arg-type]
        with watched(measured, device):
            trainer.train()
    measured.steps, measured.tokens = steps, sum(map(len, rows))
    wrapped.unload()
    model.requires_grad_(False).eval()


def bank(model: Any, jobs: Sequence[AdapterJob], settings: InnerLoop, measured: Measured) -> None:
    """(c)."""
    with watched(measured, next(model.parameters()).device.type):
        trained = settings.adapt(Policy(model, Digits(), chat=False), jobs)
    measured.steps = sum(stats.steps for stats in trained.stats)
    measured.tokens = sum(stats.trained_tokens for stats in trained.stats)


class BankProcesses:
    """The bank in several processes with one thread each; each trains its share of the jobs."""

    def __init__(self, count: int, options: argparse.Namespace, settings: InnerLoop) -> None:
        self.count = count
        started = (options.model, options.dtype, settings, options.jobs, options.epochs, options.seed)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_process, initargs=started)
        self.run(2 * count)  # starts the processes and warms them up

    def run(self, jobs: int) -> list[tuple[int, int]]:
        """Steps and tokens of each process's share of the first `jobs` jobs."""
        shares = [range(number, jobs, self.count) for number in range(self.count)]
        return list(self.pool.map(_run_share, shares, chunksize=1))

    def __call__(self, measured: Measured, jobs: int) -> None:
        with watched(measured, "cpu"):
            done = self.run(jobs)
        measured.steps = sum(steps for steps, _ in done)
        measured.tokens = sum(tokens for _, tokens in done)


def _start_process(name: str, dtype: str, settings: InnerLoop, count: int, epochs: int, seed: int) -> None:
    global _work
    keep_freed_memory()
    torch.set_num_threads(1)
    model = make_model(name, getattr(torch, dtype), "cpu")
    _work = (model, settings, draw_jobs(count, vocabulary=model.config.vocab_size, epochs=epochs, seed=seed))


_work: tuple[Any, InnerLoop, list[AdapterJob]]


def _run_share(share: Sequence[int]) -> tuple[int, int]:
    model, settings, jobs = _work
    stats = settings.adapt(Policy(model, Digits(), chat=False), [jobs[number] for number in share]).stats
    return sum(each.steps for each in stats), sum(each.trained_tokens for each in stats)


def gemm_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of one large matrix product."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def matmul_parameters(model: Any) -> int:
    """Parameters that every token is multiplied with: linear layers and the output layer."""
    return sum(target.inputs * target.outputs for target in find_targets(model, "all-linear")) + (
        model.get_output_embeddings().weight.numel()
    )


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="lab", help=f"{', '.join(SHAPES)}, or a folder")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="all-linear")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max_tokens", type=int, default=InnerLoop.max_tokens)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result to this file")


def settings_of(options: argparse.Namespace, slots: int | None) -> InnerLoop:
    return InnerLoop(
        rank=options.rank, alpha=2 * options.rank, target_modules=options.targets, epochs=options.epochs,
        max_adapters=slots, max_tokens=options.max_tokens,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--slots", type=int, help="adapters at the same time; the inner loop's own choice by default")
    parser.add_argument("--processes", type=int, default=0, help="also measure the bank in so many processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peft_jobs", type=int, default=4, help="jobs of (a) in each repeat")
    parser.add_argument("--peft_steps", type=int, default=12, help="most steps of each of them")
    parser.add_argument("--official_steps", type=int, default=2, help="steps of (b) in each repeat; 0 leaves it out")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    model = make_model(options.model, dtype, options.device)
    settings = settings_of(options, options.slots)
    jobs = draw_jobs(options.jobs, vocabulary=model.config.vocab_size, epochs=options.epochs, seed=options.seed)
    found = {"sequential": Measured(), "official": Measured(), "bank": Measured(), "processes": Measured()}
    processes = BankProcesses(options.processes, options, settings) if options.processes else None
    settings.adapt(
        Policy(model, Digits(), chat=False), jobs[:2]
    )  # first calls are slow: thread pools, kernels, allocations
    rates = []
    for _ in range(options.repeats):
        rates.append(gemm_rate(dtype, options.device))
        sequential(model, jobs[: options.peft_jobs], settings, options.peft_steps, found["sequential"])
        if options.official_steps:
            official(model, jobs, settings, options.official_steps, found["official"])
        bank(model, jobs, settings, found["bank"])
        if processes is not None:
            processes(found["processes"], len(jobs))
    print_result(options, model, found, statistics.median(rates))


def print_result(options: argparse.Namespace, model: Any, found: dict[str, Measured], rate: float) -> None:
    flop = 4 * matmul_parameters(model)
    print(f"{options.model}, rank {options.rank}, {options.targets}, {options.dtype}; {options.jobs} jobs; "
          f"{machine(options.device)}; torch {torch.__version__}; large matmul {rate / 1e9:.1f} GFLOP/s")  # fmt: skip
    print("| | adapter-steps/s | tokens/s | share of the matmul rate | peak memory, MB | times sequential |")
    print("|---|---|---|---|---|---|")
    rows = {}
    for name, measured in found.items():
        if not measured.seconds:
            continue
        tokens = measured.tokens / statistics.median(measured.seconds)
        ratio = found["sequential"].per_step / measured.per_step
        rows[name] = {
            "adapter_steps_per_s": 1 / measured.per_step,
            "tokens_per_s": tokens,
            "share": tokens * flop / rate,
            "peak_mb": measured.peak / 1e6,
            "ratio": ratio,
            "seconds": measured.seconds,
        }
        print(f"| {name} | {1 / measured.per_step:.1f} | {tokens:.0f} | {tokens * flop / rate:.0%} | "
              f"{measured.peak / 1e6:.0f} | {ratio:.3g} |")  # fmt: skip
    print("padding that the frozen model sees: none, sequences lie end to end")
    if options.json:
        used = {name: str(value) for name, value in vars(options).items()}
        result = {"options": used, "machine": machine(options.device), "matmul": rate, **rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
