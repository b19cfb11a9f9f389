"""The training of the lab's models from scratch: weighted next-token loss, one-thread processes, a log to read.

What the two models are trained on: `towns.py` and `grids.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seal_lightning.files.saving import whole_files
from seal_lightning.files.served import save_model
from seal_lightning.models.schedule import learning_rate_factor

IGNORED = -100
Row = tuple[list[int], list[float]]  # token ids, and the weight of each one's loss


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
        name: The name in the log.
        rows: The rows.
        share: Share of the step's loss.
    """

    name: str
    rows: Sequence[Row]
    share: float


@dataclass(frozen=True)
class Recipe:
    """Settings of every pre-training.

    Attributes:
        peak: Learning rate after the warm-up; it falls to a twentieth as a cosine.
        warmup: Steps over which it rises.
        seed: Seed of everything random.
    """

    peak: float = 3e-3
    warmup: int = 100
    seed: int = 0


def begin(
    fabric: Fabric, tokenizer: PreTrainedTokenizerFast, out: Path, recipe: Recipe, *, rope_theta: float = 10_000.0
) -> tuple[LlamaForCausalLM, Callable[[str], None]]:
    """A new model, and the log of its pre-training in `out`, which opens with the recipe and the sizes."""
    out.mkdir(parents=True, exist_ok=True)
    file = (out / "pretraining.log").open("w", encoding="utf-8") if fabric.is_global_zero else None

    def log(text: str) -> None:
        for stream in (sys.stdout, file) if file else ():
            print(text, file=stream, flush=True)

    torch.manual_seed(recipe.seed)
    model = make_model(tokenizer, rope_theta=rope_theta)
    size = sum(parameter.numel() for parameter in model.parameters())
    log(f"{recipe}")
    log(f"{fabric.world_size} processes with one thread each; {size} parameters, {len(tokenizer)} tokens, torch "
        f"{torch.__version__}")  # fmt: skip
    return model, log


def make_model(tokenizer: Any, *, rope_theta: float) -> LlamaForCausalLM:
    """A Llama of about 0.9 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=320,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.06,  # with the usual 0.02, so narrow a model takes ten times as long to learn to copy
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def train(
    fabric: Fabric,
    plain: LlamaForCausalLM,
    make_batches: Callable[[int], Sequence[Batch]],
    *,
    steps: int,
    recipe: Recipe,
    log: Callable[[str], None],
    examine: Callable[[], str],
) -> None:
    """Train a model in place.

    Args:
        fabric: The processes.
        plain: The model.
        make_batches: Gives this process's batches of a step; their shares need not add up to 1.
        steps: Optimizer steps.
        recipe: The learning rate.
        log: Prints a line.
        examine: Says every 500 steps what the model can do by now.
    """
    optimizer = torch.optim.AdamW(plain.parameters(), lr=recipe.peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    model, optimizer = fabric.setup(plain, optimizer)
    padding = plain.config.pad_token_id
    assert padding is not None, "make_model sets it"
    started, tokens, losses = time.monotonic(), 0, dict[str, list[float]]()
    for step in range(steps):
        factor = learning_rate_factor("cosine", step, steps, warmup=recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak * (factor if step < recipe.warmup else 0.05 + 0.95 * factor)
        batches = make_batches(step)
        for number, batch in enumerate(batches):
            ids, labels, weights = _tensors(batch.rows, pad=padding)
            with fabric.no_backward_sync(model, enabled=number < len(batches) - 1):
                loss, target_loss = _loss(model(input_ids=ids, use_cache=False).logits, labels, weights)
                fabric.backward(loss * batch.share)
            tokens += int((labels != IGNORED).sum())
            losses.setdefault(batch.name, []).append(target_loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - started
            means = ", ".join(f"{name} {fmean(values):.3f}" for name, values in losses.items())
            log(f"step {step + 1}/{steps}, {spent / 60:.1f} min, loss on {means}, "
                f"{tokens * fabric.world_size / spent:.0f} tokens/s")  # fmt: skip
            losses.clear()
        if (step + 1) % 500 == 0:
            log(f"  {examine()}")


def save(fabric: Fabric, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights in float16, once; the config says float32, so that they are loaded as such."""
    if not fabric.is_global_zero:
        return
    with whole_files(out) as aside:  # beside the log
        save_model(model.half(), aside)
        model.config.dtype = torch.float32
        model.config.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def _tensors(rows: Sequence[Row], *, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and loss weights, each (B, T), padded on the right: attention is causal and needs no mask."""
    longest = max(len(ids) for ids, _ in rows)
    pads = [longest - len(ids) for ids, _ in rows]
    ids = torch.tensor([[*ids, *[pad] * count] for (ids, _), count in zip(rows, pads, strict=True)])
    labels = torch.tensor([[*ids, *[IGNORED] * count] for (ids, _), count in zip(rows, pads, strict=True)])
    weights = torch.tensor([[*weights, *[0.0] * count] for (_, weights), count in zip(rows, pads, strict=True)])
    return ids, labels, weights


def _loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The weighted mean over tokens, and the plain mean over target tokens for the log."""
    targets, weights = labels[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
    whole = weights >= 1.0
    return (losses * weights).sum() / weights.sum(), float((losses.detach() * whole).sum() / whole.sum())


def launch(description: str, *, steps: int, seed: int) -> tuple[Fabric, argparse.Namespace]:
    """Read the command line of a pre-training, and start its one-thread processes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=seed)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=options.processes, strategy="ddp")
    fabric.launch()
    return fabric, options
