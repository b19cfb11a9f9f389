"""What the inner loop is measured on: shapes of models with random weights, and jobs as long as published self-edits.

Speed does not depend on the weights. Lengths are those of 50 passages x 5 edits of rank_iter0.json of the SEAL
repository (MIT), counted in tokens of SmolLM2.
"""

import argparse
import os
import platform
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets
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
    """A tokenizer for texts of token numbers: only lengths matter here."""

    eos_token_id = None
    pad_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [int(token) for token in text.split() if token.isdigit()]}


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
    """A built-in shape with random weights, or the model in a folder."""
    if name not in SHAPES:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    else:
        make, sizes = SHAPES[name]
        config = make(**sizes, max_position_embeddings=4096, tie_word_embeddings=name in TIED)
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def matmul_parameters(model: Any) -> int:
    """Parameters that every token is multiplied with: linear layers and the output layer."""
    return sum(target.inputs * target.outputs for target in find_targets(model, "all-linear")) + (
        model.get_output_embeddings().weight.numel()
    )


FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # that decide how fast matrix products are


def machine(device: str) -> str:
    """The card's name; or the processor's model, its cores and which of the FEATURES it has."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    facts = {}
    if (cpu := Path("/proc/cpuinfo")).exists():
        facts = {
            name.strip(): value.strip() for name, _, value in (x.partition(":") for x in cpu.read_text().splitlines())
        }
    model = facts.get("model name") or platform.processor() or "unknown processor"
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    has = [feature for feature in FEATURES if feature in facts.get("flags", "").split()]
    return f"{model}{family}, {os.cpu_count()} cores, {' '.join(has) or 'none of ' + ' '.join(FEATURES)}"


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
