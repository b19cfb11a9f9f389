"""Make the lab's model from nothing: one command, one run, two one-thread processes, under half an hour on two cores.

    python -m seal_lightning.lab.pretrain --out DIR

Writes the tokenizer, the weights (float16, safetensors) and the log of the run. It begins with bare documents: no
instruction, true lines only, and several about the same fact. What there is to learn in them is mostly to copy names
and values, which everything later needs and which takes longest.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seal_lightning.lab.corpus import Corpus, Document, known_queries
from seal_lightning.lab.lines import QUESTION
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.lab.world import ATTRIBUTES, passages
from seal_lightning.policy import Policy
from seal_lightning.seeding import derive_seed

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Settings of the pre-training; the defaults made the weights in this folder.

    Attributes:
        steps: Optimizer steps.
        bare: Share of the steps with bare documents.
        peak: Learning rate after the warm-up; it falls to a tenth as a cosine.
        warmup: Steps over which it rises.
        edit_documents: A step and process.
        short_documents: A step and process.
        short_weight: Of the short documents' loss beside the edit documents'.
        prompt_weight: Of a prompt token's loss beside a target token's.
        value_weight: The same of a value within a target: reading the passage is to get these right.
        seed: Of everything random.
    """

    steps: int = 2600
    bare: float = 0.4
    peak: float = 3e-3
    warmup: int = 100
    edit_documents: int = 10
    short_documents: int = 8
    short_weight: float = 0.7
    prompt_weight: float = 0.1
    value_weight: float = 3.0
    seed: int = 0


def make_model(tokenizer: Any) -> LlamaForCausalLM:
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
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def pretrain(fabric: Fabric, recipe: Recipe, out: Path) -> None:
    """Train and write everything to `out`."""
    log = Log(out / "pretraining.log") if fabric.is_global_zero else print_nothing
    corpus = Corpus(seed=recipe.seed)
    tokenizer = build_tokenizer(corpus.texts())
    values = {token for a in ATTRIBUTES for value in a.values for token in tokenizer(f" {value}")["input_ids"]}
    torch.manual_seed(recipe.seed)
    plain = make_model(tokenizer)
    size = sum(parameter.numel() for parameter in plain.parameters())
    log(f"{recipe}")
    log(f"{fabric.world_size} processes with one thread each; {size} parameters, {len(tokenizer)} tokens, torch "
        f"{torch.__version__}")  # fmt: skip
    optimizer = torch.optim.AdamW(plain.parameters(), lr=recipe.peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    model, optimizer = fabric.setup(plain, optimizer)
    draw = random.Random(derive_seed("lab pretraining", recipe.seed, fabric.global_rank))
    started, tokens, sums = time.monotonic(), 0, torch.zeros(2)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak * _rate(step, recipe)
        bare = step < recipe.bare * recipe.steps
        edits = [corpus.edit_document(draw, bare=bare) for _ in range(recipe.edit_documents)]
        edits.sort(key=lambda document: len(document.prompt) + len(document.text))
        shorts = [corpus.short_document(draw) for _ in range(recipe.short_documents)]
        half = len(edits) // 2
        batches = [edits[:half], edits[half:], shorts]  # by length, so that little is padding
        shares = [half / len(edits), 1 - half / len(edits), recipe.short_weight]
        for number, (documents, share) in enumerate(zip(batches, shares, strict=True)):
            ids, labels, weight = _tensors(documents, tokenizer, recipe, values)
            with fabric.no_backward_sync(model, enabled=number < len(batches) - 1):
                loss, target_loss = _loss(model(input_ids=ids, use_cache=False).logits, labels, weight)
                fabric.backward(loss * share)
            tokens += int((labels != IGNORED).sum())
            sums[int(documents is shorts)] += target_loss * (0.5 if documents is not shorts else 1.0)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - started
            log(f"step {step + 1}/{recipe.steps}, {spent / 60:.1f} min, loss on edits {sums[0] / 100:.3f}, on short "
                f"documents {sums[1] / 100:.3f}, {tokens * fabric.world_size / spent:.0f} tokens/s")  # fmt: skip
            sums.zero_()
        if (step + 1) % 500 == 0:
            log(f"  known facts {known(plain, tokenizer, corpus):.2f}, reading {reading(plain, tokenizer, corpus):.2f}")
    log(f"in the end: known facts {known(plain, tokenizer, corpus, count=960):.3f}, new facts "
        f"{unknown(plain, tokenizer, corpus):.3f} (chance 0.025), reading "
        f"{reading(plain, tokenizer, corpus, count=100):.3f}")  # fmt: skip
    if fabric.is_global_zero:
        save(plain, tokenizer, out)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights in float16; the config says float32, so that they are loaded as such."""
    model.half().save_pretrained(out)
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def _tensors(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, recipe: Recipe, values: set[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and loss weights, each (B, T), padded on the right: attention is causal and needs no mask."""
    rows = []
    for document in documents:
        prompt = tokenizer(document.prompt)["input_ids"] if document.prompt else []
        text = [*tokenizer(document.text)["input_ids"], tokenizer.eos_token_id]
        weights = [recipe.value_weight if token in values else 1.0 for token in text]  # type: ignore[misc]
        rows.append(([*prompt, *text], [recipe.prompt_weight] * len(prompt) + weights))  # type: ignore[misc]
    longest = max(len(ids) for ids, _ in rows)
    pads = [longest - len(ids) for ids, _ in rows]
    ids = torch.tensor([[*ids, *[tokenizer.pad_token_id] * pad] for (ids, _), pad in zip(rows, pads, strict=True)])
    labels = torch.tensor([[*ids, *[IGNORED] * pad] for (ids, _), pad in zip(rows, pads, strict=True)])
    weights = torch.tensor([[*weights, *[0.0] * pad] for (_, weights), pad in zip(rows, pads, strict=True)])
    return ids, labels, weights


def _loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The weighted mean over tokens, and the plain mean over target tokens for the log."""
    targets, weights = labels[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
    whole = weights >= 1.0
    return (losses * weights).sum() / weights.sum(), float((losses.detach() * whole).sum() / whole.sum())


@torch.no_grad()
def known(model: Any, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, *, count: int = 200) -> float:
    """Share of closed-book queries about known facts that are answered."""
    return _answered(model, tokenizer, known_queries(corpus, count=count, seed=1))


@torch.no_grad()
def unknown(model: Any, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> float:
    """The same about towns that no document was about: chance."""
    found = passages("validation", count=60, towns=1, attributes=6, seed=99)
    return _answered(
        model, tokenizer, [corpus.question(fact, passage.title, "ask") for passage in found for fact in passage.facts]
    )


@torch.no_grad()
def reading(model: Any, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, *, count: int = 25) -> float:
    """Share of question lines after passages about fresh towns that the model ends with the right value."""
    documents = []
    for number in range(count):
        passage = passages("pretraining", count=1, towns=1, attributes=6, seed=number)[0]
        prompt = corpus.task.prompt(passage.context("document"))
        for fact in passage.facts[::2]:
            line = QUESTION.format(question=fact.question(), value="").rstrip()
            documents.append(Document(Policy(None, None, chat=False).format(prompt) + line, f" {fact.value}"))
    return _answered(model, tokenizer, documents)


def _answered(model: Any, tokenizer: PreTrainedTokenizerFast, queries: Sequence[Document]) -> float:
    right = 0
    for query in queries:
        ids = torch.tensor([tokenizer(query.prompt)["input_ids"]])
        (gold,) = tokenizer(query.text)["input_ids"]  # type: ignore[misc]
        right += int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()) == gold
    return right / len(queries)


class Log:
    """Prints lines and keeps them in a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", encoding="utf-8")

    def __call__(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.file, flush=True)


def print_nothing(text: str) -> None:
    """The log of every process but the first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=options.processes, strategy="ddp")
    fabric.launch()
    pretrain(fabric, Recipe(steps=options.steps, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
