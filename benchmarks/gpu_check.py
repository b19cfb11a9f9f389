"""Eight minutes on one GPU: is all right on CUDA, and where does the time go? What was expected stands beside it.

    python benchmarks/gpu_check.py --out DIR [--budget 480] [--models qwen2.5-0.5b qwen2.5-3b qwen2.5-7b]
    python benchmarks/gpu_check.py --out DIR --device cpu --models lab --slots 4 --steps 2      # to try it

Sections run in the order of their worth, and none starts without the seconds that it needs; one that fails prints its
error and the next runs. DIR gets gpu_check.json (each line with its expectation and verdict) and profile.txt. Models
have random weights, so nothing is downloaded.

Needs torch for CUDA, transformers, peft, and what pyproject.toml lists for a run. A machine that has these three and
lightning only, and no network, needs these wheels besides: jsonargparse, typeshed_client, docstring_parser, rapidfuzz
(4 MB), and psutil, filelock and rich where they are missing. Where the package is copied instead of installed,
`callbacks` and `configs` belong inside `seal_lightning/`: `PYTHONPATH=.:benchmarks python -P benchmarks/gpu_check.py`.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_figures
import peft_loop
import torch
from gpu_figures import apart, jobs_of, settings_of
from shapes import Digits, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate
from seal_lightning.types import AdapterJob

ROOT = Path(__file__).resolve().parent.parent


class Check:
    """Results by name, with what was expected of them.

    Attributes:
        options: The command's options.
        found: name -> {"result": ..., "expected": ..., "verdict": ...}.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.found: dict[str, dict[str, object]] = {}
        self.rates: dict[Any, float] = {}  # tokens/s of training, seconds a token of decoding

    @property
    def left(self) -> float:
        """Seconds."""
        return self.options.budget - (time.perf_counter() - self.began)

    def note(self, name: str, result: object, expected: str = "", ok: bool | None = None) -> None:
        """Print a result and keep it; `ok` says whether it is as expected, None where nothing was."""
        verdict = "" if ok is None else "as expected" if ok else "NOT AS EXPECTED"
        self.found[name] = {"result": result, "expected": expected, "verdict": verdict}
        print(f"  {name}: {result}" + (f"   [expected {expected}: {verdict}]" if verdict else ""), flush=True)

    def within(self, name: str, value: float, low: float, high: float) -> None:
        """A figure that was expected between two others on an H100 or H200 (nan: nothing was); no verdict on a CPU."""
        ok = low <= value <= high if self.options.device == "cuda" and not math.isnan(low) else None
        self.note(name, round(value, 3), f"{low:g} to {high:g}", ok)

    def section(self, title: str, seconds: float, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do one section, if there is time for it; what it returns, or None."""
        if self.left < seconds:
            self.note(f"left out: {title}", f"{self.left:.0f} s remain")
            return None
        print(f"-- {title} (at {time.perf_counter() - self.began:.0f} s)", flush=True)
        try:
            return work(self, *arguments)
        except Exception as error:
            self.note(f"FAILED: {title}", f"{type(error).__name__}: {error}"[:300], "no error", ok=False)
            print("".join(traceback.format_exception(error)[-4:]), flush=True)
            return None
        finally:
            gpu_figures.forget(self.options.device)
            self.options.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"lines": self.found, "failed": self.failed}, indent=1, default=str)
            (self.options.out / "gpu_check.json").write_text(text + "\n")

    @property
    def failed(self) -> list[str]:
        return [name for name, line in self.found.items() if line["verdict"] == "NOT AS EXPECTED"]


# -- is it right? ------------------------------------------------------------------------------------------------------


def adapters(device: str, dtype: torch.dtype, jobs: Sequence[AdapterJob], slots: int) -> torch.Tensor:
    """The parameters that training in so many slots comes to, on the CPU."""
    model = make_model("lab", dtype, "cpu").to(device)  # drawn on a GPU, its weights would be others
    policy = Policy(model, Digits(), chat=False)
    return settings_of(8, "all-linear", max_adapters=slots).adapt(policy, jobs).bank.parameters.cpu().float()


def exactness(check: Check) -> None:
    """float32 without TF32: only the order of sums differs."""
    device, jobs = check.options.device, jobs_of(12)
    together = adapters(device, torch.float32, jobs, 12)
    far = float((adapters("cpu", torch.float32, jobs, 12) - together).abs().max())
    check.note("largest difference of adapters, CPU and GPU", far, "below 1e-4", far < 1e-4)
    far = float((adapters(device, torch.float32, jobs, 1) - together).abs().max())
    check.note("largest difference, 12 adapters together and one by one", far, "below 1e-4", far < 1e-4)
    same = torch.equal(adapters(device, torch.float32, jobs, 12), together)
    check.note("the same twice, bit for bit (float32)", same, "true at these lengths", same)
    against_peft(check, jobs[:3])


def against_peft(check: Check, jobs: Sequence[AdapterJob]) -> None:
    """Each adapter against peft's from the same start, with the inner loop's learning rates."""
    model = make_model("lab", torch.float32, check.options.device)
    settings = settings_of(8, "all-linear", max_adapters=3, schedule="constant")
    trained = settings.adapt(Policy(model, Digits(), chat=False), jobs)
    drawn = settings.adapt(Policy(model, Digits(), chat=False), jobs, until=[0] * len(jobs))
    far = 0.0
    for number, job in enumerate(jobs):
        start = bank_lora(drawn.bank, number).state
        wrapped = peft_loop.wrap(model, settings)
        peft_loop.train_each(wrapped, [job], settings, start=start)
        named = {name.replace(".default", ""): value for name, value in wrapped.named_parameters() if "lora_" in name}
        mine = bank_lora(trained.bank, number).state
        far = max(far, *(float((value.cpu() - mine[name]).abs().max()) for name, value in named.items()))
        wrapped.unload()
    check.note("largest difference, bank and sequential peft", far, "below 1e-4", far < 1e-4)


def half_precision(check: Check) -> None:
    """A bfloat16 base: how far is what was learnt from itself alone, and from a float32 base?"""
    name, device, jobs = check.options.models[0], check.options.device, jobs_of(check.options.slots // 4)
    half = Policy(make_model(name, torch.bfloat16, device), Digits(), chat=False)
    many, single = settings_of(8), settings_of(8, max_adapters=1)

    def learnt(settings: Any, jobs: Sequence[AdapterJob]) -> torch.Tensor:
        start = settings.adapt(half, jobs, until=[0] * len(jobs)).bank.parameters.float()
        return settings.adapt(half, jobs).bank.parameters.float() - start

    one, again, alone = learnt(many, jobs), learnt(many, jobs), learnt(single, jobs[:2])
    check.note("bfloat16 adapters are finite", bool(one.isfinite().all()), "true", bool(one.isfinite().all()))
    check.note("the same twice, bit for bit (bfloat16)", bool(torch.equal(one, again)))
    check.within("relative difference of what was learnt, together and alone, bfloat16", apart(one[:2], alone), 0, 0.2)
    half.model.float()
    check.within("the same, bfloat16 and float32 base", apart(one, learnt(many, jobs)), 0, 0.4)


class Products(TorchDispatchMode):
    """Notes the dtypes of LoRA's products; the frozen layers make `mm` and `addmm`, LoRA the others."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::_grouped_mm"):
            self.dtypes.add(str(result.dtype))
        return result


def autocast(check: Check) -> None:
    """bf16-mixed: LoRA and its gradients stay float32."""
    device = check.options.device
    policy = Policy(make_model("lab", torch.float32, device), Digits(), chat=False)
    settings = settings_of(8, epochs=1)
    settings.adapt(policy, jobs_of(2))
    with Products() as products, torch.autocast(device, dtype=torch.bfloat16):
        settings.adapt(policy, jobs_of(2))
    found = sorted(products.dtypes)
    check.note("dtypes of LoRA's products under bf16-mixed", found, "torch.float32 alone", found == ["torch.float32"])


def answers(check: Check) -> None:
    model = make_model("lab", torch.float32, check.options.device)
    model.generation_config.eos_token_id = None
    policy = Policy(model, SimpleNamespace(pad_token_id=0, eos_token_id=None), chat=False)
    trained = settings_of(8, "all-linear").adapt(Policy(model, Digits(), chat=False), jobs_of(4))
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 1000) for _ in range(draw.randint(4, 20))] for _ in range(16)]
    owners = [row // 4 for row in range(16)]
    with trained.answering(owners) as working:
        together = generate(policy, prompts, max_new_tokens=12, on_keep=working.keep)
    alone = []
    for owner, prompt in zip(owners, prompts, strict=True):
        with trained.answering([owner]):
            alone += generate(policy, [prompt], max_new_tokens=12)
    equal = statistics.fmean(a == b for a, b in zip(together, alone, strict=True))
    check.note("equal answers in one batch and one by one", equal, "1.0", equal == 1.0)


@contextmanager
def limited(room: float) -> Iterator[None]:
    """Memory of the GPU for what is there and so many bytes more."""
    torch.cuda.empty_cache()
    before, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((before + room) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def out_of_memory(check: Check) -> None:
    """Tokens a pass, then slots, are halved; the adapters must come out as before."""
    if check.options.device == "cpu":
        return check.note("memory", "a CPU's is not limited here")
    policy = Policy(make_model("qwen2.5-0.5b", torch.bfloat16, "cuda"), Digits(), chat=False)
    jobs, settings = jobs_of(48), settings_of(32, "all-linear", epochs=1, max_adapters=48)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    bank = settings.adapt(policy, jobs).bank
    expected, each = bank.parameters.cpu(), bank.parameters[0].numel()
    peak, results = torch.cuda.max_memory_allocated() - before, 48 * each * bank.parameters.element_size()
    del bank
    rooms = {
        "60% of the activations": 0.6 * peak + 0.4 * (results + 48 * 16 * each),
        "two thirds of the slots": results + 32 * 16 * each,
    }
    for name, room in rooms.items():
        with limited(room):
            try:
                far = apart(settings.adapt(policy, jobs).bank.parameters.cpu(), expected)
            except RuntimeError as error:
                check.note(f"memory for {name}", f"NOT RECOVERED: {error}"[:160], "recovered", ok=False)
            else:
                check.note(f"memory for {name}: relative difference", far, "below 0.1", far < 0.1)


def slots_stay(check: Check, model: Any) -> None:
    """What a training leaves in the allocator's cache must not change how many adapters train together."""
    settings = settings_of(32, "all-linear", epochs=1)
    gpu_figures.forget(check.options.device)
    before = settings.slots(model)
    gpu_figures.step_times(
        model, settings_of(32, "all-linear", max_adapters=min(before, 24), epochs=4), min(before, 24), 1
    )
    after = settings.slots(model)
    check.note("slots chosen before and after a training", f"{before}, {after}", "equal", before == after)


def whole_run(check: Check) -> None:
    """`seal fit` of a tiny model, and its resume."""
    accelerator = "gpu" if check.options.device == "cuda" else "cpu"
    config = next(path for path in (ROOT / "configs", ROOT / "seal_lightning/configs") if path.exists())
    command = [
        sys.executable, "-P", "-m", "seal_lightning", "fit", "--config", str(config / "debug/random.yaml"),
        "--model.source.name", "random/qwen2", "--model.source.dtype", "bfloat16", "--trainer.accelerator", accelerator,
        "--trainer.default_root_dir", str(check.options.out / "run"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for name, more in (("a whole run", ("--trainer.max_epochs", "1")), ("its resume", ("--ckpt_path", "last"))):
        done = subprocess.run(
            [*command, *more],
            cwd=config.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(30, check.left),
        )
        check.note(f"exit code of {name}", done.returncode, "0", done.returncode == 0)
        if done.returncode:
            print(done.stderr[-3000:], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=480, help="seconds, at most")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument(
        "--models", nargs="+", default=["qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b"], help="smallest first"
    )
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    check = Check(parser.parse_args())
    options = check.options
    options.out = options.out.resolve()
    small, large = options.models[0], options.models[-1]
    check.section("machine", 5, gpu_figures.machine)
    check.section("exactness", 15, exactness)
    check.section("answers", 10, answers)
    check.section("autocast", 10, autocast)
    check.section("a whole run", 60, whole_run)
    check.section("plans of attention", 10, gpu_figures.plans_of_attention)
    check.section("half precision", 20, half_precision)
    check.section("out of memory", 30, out_of_memory)
    model = check.section(f"{large}, q and v", 60, gpu_figures.bank, large, 32, "default")
    if model is not None:
        check.section("a step, counted", 25, gpu_figures.counts, model)
        check.section("decoding", 25, gpu_figures.decoding, model)
        check.section("a round", 1, gpu_figures.a_round, large)
        check.section("slots", 20, slots_stay, model)
        del model
    check.section("products of LoRA", 15, gpu_figures.products)
    for name in reversed(options.models[:-1]):
        check.section(f"{name}, q and v", 35, gpu_figures.bank, name, 32, "default")
    check.section(f"{large}, all layers", 45, gpu_figures.bank, large, 32, "all-linear")
    check.section(f"{small}, all layers", 30, gpu_figures.bank, small, 32, "all-linear")
    failed = check.failed
    print(f"-- done at {time.perf_counter() - check.began:.0f} s; not as expected: {', '.join(failed) or 'nothing'}")


if __name__ == "__main__":
    main()
