"""What a step of the bank should take on an H200, by arithmetic; beside it, RESULTS.md has what one took.

    python benchmarks/predicted.py [--slots 64] [--launch 9.3] [--peft 45 56 38]

Kernels are counted: steps of the published mix of lengths run on a pretended GPU (benchmarks/pretend_cuda.py) with two
and with four layers, which gives the kernels of a layer and those around them. The rest is traffic and FLOP:

frozen products   4 FLOP a parameter and token, at 700 x T/(T+300) TFLOP/s (7B; 600 for 3B, 420 for 0.5B)
elementwise       norms, rotations, SiLU, residuals, copies: 91 bytes x intermediate size a layer and token
attention         0.44 ms a layer
LoRA              bfloat16, nothing padded: 12 bytes a token, target and feature of its input and output, and 2 more of
                  its input, which is read again for what rounding takes from A
optimizer         gradients, norm, clipping, AdamW, zeroing: 64 bytes a parameter and slot
output layer      56 bytes a token and word of the vocabulary
memory            4.1 TB/s
host              `--launch` microseconds a kernel, forward and backward together

A step takes the longer of GPU and host: nothing in it waits. Each figure may be off by 40 %, as may `--peft`, the
milliseconds a step of sequential peft (q and v; all layers take 1.6 times as long), which is bound by the host.

The defaults are what was predicted before anything had run. On the one machine that was measured since, the host took
50 microseconds a kernel: `--launch 50 --peft 158 215 147` gives its steps.
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import torch
from gpu_figures import EnoughError, each_step, jobs_of, settings_of
from pretend_cuda import PretendCuda
from shapes import SHAPES, Digits
from transformers import AutoModelForCausalLM, Qwen2Config

from seal_lightning.policy.policy import Policy

RATES = {"qwen2.5-7b": 700e12, "qwen2.5-3b": 600e12, "qwen2.5-0.5b": 420e12}  # FLOP/s
LARGE = 790e12  # FLOP/s of a large product, what shares are of
MEMORY = 4.1e12  # bytes/s
ALL_LAYERS = 1.6  # peft's step with adapters on all layers, as a multiple of q and v


def kernels(targets: str, slots: int) -> tuple[float, float]:
    """Launches of one step: a layer's, and those of the rest."""
    counted = []
    for layers in (2, 4):
        config = Qwen2Config(vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
                             num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
        marks: list[int] = []
        with PretendCuda() as gpu:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)

            def stepped(gpu: PretendCuda = gpu, marks: list[int] = marks) -> None:
                marks.append(len(gpu.launches))
                if len(marks) == 4:
                    raise EnoughError

            settings = settings_of(8, targets, max_adapters=slots, epochs=4)
            policy = Policy(model.to("cuda:0"), Digits(), chat=False)
            with suppress(EnoughError), each_step(stepped):
                settings.adapt(policy, jobs_of(slots, epochs=4))
        steps = [later - earlier for earlier, later in pairwise(marks)]
        counted.append(sum(steps) / len(steps))
    layer = (counted[1] - counted[0]) / 2
    return layer, counted[0] - 2 * layer


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic needs of a shape: (inputs, outputs) of a layer's linear layers, and the model around them."""

    linear: dict[str, tuple[int, int]]
    layers: int
    intermediate: int
    output: int  # parameters of the output layer
    words: int

    @staticmethod
    def of(name: str) -> "Sizes":
        sizes = SHAPES[name][1]
        hidden, wide = sizes["hidden_size"], sizes["intermediate_size"]
        keys = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
        linear = {"q": (hidden, hidden), "k": (hidden, keys), "v": (hidden, keys), "o": (hidden, hidden),
                  "gate": (hidden, wide), "up": (hidden, wide), "down": (wide, hidden)}  # fmt: skip
        words = sizes["vocab_size"]
        return Sizes(linear, sizes["num_hidden_layers"], wide, words * hidden, words)

    @property
    def frozen(self) -> int:
        """Parameters that every token is multiplied with."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values()) + self.output

    def features(self, targets: str) -> tuple[int, int]:
        """Inputs, and outputs, of all layers with adapters."""
        chosen = [self.linear[name] for name in ("qv" if targets == "default" else self.linear)]
        inputs, outputs = (self.layers * sum(sizes) for sizes in zip(*chosen, strict=True))
        return inputs, outputs


def parts(name: str, targets: str, rank: int, slots: int, tokens: float) -> dict[str, float]:
    """Milliseconds of the GPU's work in one step, by kind."""
    sizes = Sizes.of(name)
    inputs, outputs = sizes.features(targets)
    seconds = {
        "frozen": 4 * sizes.frozen * tokens / (RATES[name] * tokens / (tokens + 300)),
        "elementwise": 91 * sizes.intermediate * sizes.layers * tokens / MEMORY,
        "attention": 0.44e-3 * sizes.layers,
        "LoRA": (14 * inputs + 12 * outputs) * tokens / MEMORY,
        "optimizer": 64 * rank * (inputs + outputs) * slots / MEMORY,
        "output": 56 * sizes.words * tokens / MEMORY,
    }
    return {kind: 1e3 * value for kind, value in seconds.items()}


def print_table(options: argparse.Namespace, names: Sequence[str]) -> None:
    tokens = 54.0 * options.slots  # a step has a minibatch of every slot: one line or passage
    print(f"| model, LoRA, {options.slots} slots | kernels a step | GPU: frozen / elementwise / attention / LoRA / "
          "optimizer / output, ms | host, ms | step, ms | times sequential peft | share of 790 TFLOP/s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for targets, rank, label in (
        ("default", 32, "q,v r32"),
        ("all-linear", 8, "all r8"),
        ("all-linear", 32, "all r32"),
    ):
        layer, rest = kernels(targets, options.slots)
        for name, peft in zip(names, options.peft, strict=True):
            sizes = Sizes.of(name)
            launches = layer * sizes.layers + rest
            gpu = parts(name, targets, rank, options.slots, tokens)
            host = launches * options.launch / 1e3
            step = max(sum(gpu.values()), host)
            ratio = options.slots * peft * (1 if targets == "default" else ALL_LAYERS) / step
            share = 4 * sizes.frozen * tokens / (step / 1e3) / LARGE
            work = " / ".join(f"{value:.0f}" for value in gpu.values())
            print(f"| {name} {label} | {launches:.0f} | {work} | {host:.0f} | {step:.0f} | {ratio:.1f} | {share:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--launch", type=float, default=9.3, help="microseconds of the host a kernel")
    parser.add_argument("--peft", type=float, nargs=3, default=[45, 56, 38], help="ms a step: 7B, 3B, 0.5B; q and v")
    print_table(parser.parse_args(), [name for name in reversed(SHAPES) if name in RATES])


if __name__ == "__main__":
    main()
