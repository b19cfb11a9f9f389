"""Make the lab's grid model from nothing: one command, one run, two one-thread processes.

    python -m seal_lightning.lab.grids.pretrain --out DIR

Writes the tokenizer, the weights (float16, safetensors) and the log of the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from transformers import PreTrainedTokenizerFast

from seal_lightning.data.grid_rules import Rule, Step
from seal_lightning.lab.grids.corpus import SEAMS, GridCorpus, Pieces, draw_some, pieces_of
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.lab.training import Batch, Log, Row, launch, make_model, print_nothing, save, train
from seal_lightning.seeding import derive_seed

ROPE_THETA = 100.0  # a cell's origin is some ten tokens back: the usual 10,000 tells such distances badly apart

LAST = 12  # tokens of a last output of 3 x 3 with the end of the text


@dataclass(frozen=True)
class Recipe:
    """Settings of the pre-training; the defaults made the weights in this folder.

    Attributes:
        steps: Optimizer steps.
        peak: Learning rate after the warm-up.
        warmup: Steps over which it rises.
        pair_documents: A step and process.
        edit_documents: The same.
        later_steps: Further steps with other numbers of documents; the learning rate rises and falls once more.
        later_pair_documents: A step and process, then.
        later_edit_documents: The same.
        seed: Of everything random.
    """

    steps: int = 1300
    peak: float = 3e-3
    warmup: int = 100
    pair_documents: int = 32
    edit_documents: int = 1
    later_steps: int = 300
    later_pair_documents: int = 8
    later_edit_documents: int = 12
    seed: int = 0


def pretrain(fabric: Fabric, recipe: Recipe, out: Path) -> None:
    """Train and write everything to `out`."""
    log = Log(out / "pretraining.log") if fabric.is_global_zero else print_nothing
    tokenizer = build_tokenizer(GridCorpus().texts(), pieces=SEAMS)
    torch.manual_seed(recipe.seed)
    model = make_model(tokenizer, rope_theta=ROPE_THETA)
    size = sum(parameter.numel() for parameter in model.parameters())
    log(f"{recipe}")
    log(f"{fabric.world_size} processes with one thread each; {size} parameters, {len(tokenizer)} tokens, torch "
        f"{torch.__version__}")  # fmt: skip
    learn_pairs(fabric, model, tokenizer, recipe, log)
    learn_edits(fabric, model, tokenizer, recipe, log)
    log(f"in the end: {solved(model, tokenizer, count=100)}")
    if fabric.is_global_zero:
        save(model, tokenizer, out)


def learn_pairs(fabric: Fabric, model: Any, tokenizer: Any, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Grids, with some self-edits among them."""
    _learn(fabric, model, tokenizer, log, recipe.pair_documents, recipe.edit_documents, recipe.steps, recipe)


def learn_edits(fabric: Fabric, model: Any, tokenizer: Any, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Self-edits, with some grids among them: each field once and in its place takes a while to learn."""
    _learn(fabric, model, tokenizer, log, recipe.later_pair_documents, recipe.later_edit_documents, recipe.later_steps,
           recipe)  # fmt: skip


def _learn(
    fabric: Fabric,
    model: Any,
    tokenizer: Any,
    log: Callable[[str], None],
    pairs: int,
    edits: int,
    steps: int,
    recipe: Recipe,
) -> None:
    corpus = GridCorpus()
    draw = random.Random(derive_seed("grid pretraining", recipe.seed, fabric.global_rank, pairs, edits))

    def make_batches(step: int) -> list[Batch]:
        by_length = sorted((corpus.pair_document(draw) for _ in range(pairs)), key=len)
        half = pairs // 2
        documents = [
            ("pairs", by_length[:half], 0.4),
            ("pairs", by_length[half:], 0.6),
            ("edits", [corpus.edit_document(draw) for _ in range(edits)], 0.2),
        ]
        return [Batch(name, [row_of(one, tokenizer) for one in some], share) for name, some, share in documents]

    def examine() -> str:
        return solved(model, tokenizer)

    train(fabric, model, make_batches, steps=steps, peak=recipe.peak, warmup=recipe.warmup, log=log, examine=examine)


def row_of(pieces: Pieces, tokenizer: PreTrainedTokenizerFast) -> Row:
    """Tokens and weights of a document, with the end of the text, which counts as its last piece does."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in pieces:
        tokens: list[int] = tokenizer(text)["input_ids"]  # type: ignore[assignment]
        ids += tokens
        weights += [weight] * len(tokens)
    return [*ids, tokenizer.eos_token_id], [*weights, weights[-1]]  # type: ignore[list-item]


@torch.no_grad()
def solved(model: Any, tokenizer: PreTrainedTokenizerFast, *, count: int = 25) -> str:
    """Share of last outputs that are wholly right: of copies, and of each symmetry with its name."""
    draw = random.Random(1)
    rules = {"copy": Rule(()), **{str(number): Rule((Step("symmetry", (number,)),)) for number in range(1, 8)}}
    found = []
    for name, rule in rules.items():
        right = 0
        for _ in range(count):
            ids, _ = row_of(pieces_of(draw_some(draw, rule), title=rule.name), tokenizer)
            best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -LAST - 1 : -1].argmax(-1)
            right += best.tolist() == ids[-LAST:]
        found.append(f"{name} {right / count:.2f}")
    return f"solved: {', '.join(found)}"


def main() -> None:
    fabric, options = launch(__doc__ or "", steps=Recipe.steps, seed=Recipe.seed)
    pretrain(fabric, Recipe(steps=options.steps, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
