"""Make the lab's grid model from nothing: one command, one run, two one-thread processes.

    python -m seal_lightning.lab.grids.pretrain --out DIR

Writes the tokenizer, the weights (float16, safetensors) and the log of the run.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from transformers import PreTrainedTokenizerFast

from seal_lightning.lab.grids.corpus import KINDS, SEAMS, GridCorpus, Pieces, pieces_of
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.lab.training import Batch, Log, Row, launch, make_model, print_nothing, save, train
from seal_lightning.seeding import derive_seed

ROPE_THETA = 100.0  # a cell's origin is some ten tokens back: the usual 10,000 tells such distances badly apart


@dataclass(frozen=True)
class Recipe:
    """Settings of the pre-training; the defaults made the weights in this folder.

    Attributes:
        steps: Optimizer steps.
        bare: Share of the steps with bare documents only.
        peak: Learning rate after the warm-up.
        warmup: Steps over which it rises.
        bare_documents: A step and process at first, and a third of them later.
        puzzle_documents: A step and process, later.
        edit_documents: The same.
        seed: Of everything random.
    """

    steps: int = 5000
    bare: float = 0.3
    peak: float = 3e-3
    warmup: int = 100
    bare_documents: int = 48
    puzzle_documents: int = 20
    edit_documents: int = 1
    seed: int = 0


def pretrain(fabric: Fabric, recipe: Recipe, out: Path) -> None:
    """Train and write everything to `out`."""
    log = Log(out / "pretraining.log") if fabric.is_global_zero else print_nothing
    corpus = GridCorpus()
    tokenizer = build_tokenizer(corpus.texts(), pieces=SEAMS)
    torch.manual_seed(recipe.seed)
    model = make_model(tokenizer, rope_theta=ROPE_THETA)
    size = sum(parameter.numel() for parameter in model.parameters())
    log(f"{recipe}")
    log(f"{fabric.world_size} processes with one thread each; {size} parameters, {len(tokenizer)} tokens, torch "
        f"{torch.__version__}")  # fmt: skip
    draw = random.Random(derive_seed("grid pretraining", recipe.seed, fabric.global_rank))

    def make_batches(step: int) -> list[Batch]:
        def batch(name: str, make: Any, count: int, share: float) -> Batch:
            return Batch(name, [row_of(make(draw), tokenizer) for _ in range(count)], share)

        if step < recipe.bare * recipe.steps:
            return [batch("bare pairs", corpus.bare_document, recipe.bare_documents, 1.0)]
        return [
            batch("bare pairs", corpus.bare_document, recipe.bare_documents // 3, 0.3),
            batch("puzzles", corpus.puzzle_document, recipe.puzzle_documents, 1.0),
            batch("edits", corpus.edit_document, recipe.edit_documents, 0.2),
        ]

    def examine() -> str:
        return solved(model, tokenizer, corpus)

    train(
        fabric,
        model,
        make_batches,
        steps=recipe.steps,
        peak=recipe.peak,
        warmup=recipe.warmup,
        log=log,
        examine=examine,
    )
    log(f"in the end: {solved(model, tokenizer, corpus, count=400)}")
    if fabric.is_global_zero:
        save(model, tokenizer, out)


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
def solved(model: Any, tokenizer: PreTrainedTokenizerFast, corpus: GridCorpus, *, count: int = 120) -> str:
    """Share of last outputs that are wholly right: with the symmetry's name, and of puzzles by kind and split."""
    draw = random.Random(1)
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        documents = {"named": corpus.bare_document(draw)}
        for split in ("train", "validation"):
            if kind or split == "train":
                documents[f"{'+'.join(kind) or 'identity'} ({split})"] = pieces_of(
                    corpus.puzzle(draw, kind, split=split).pairs, first=0.1
                )
        for name, pieces in documents.items():
            ids, _ = row_of(pieces, tokenizer)
            length = len(tokenizer(pieces[-1][0])["input_ids"]) + 1  # type: ignore[arg-type]
            best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -length - 1 : -1].argmax(-1)
            right[name] += best.tolist() == ids[-length:]
            asked[name] += 1
    return "solved: " + ", ".join(f"{name} {right[name] / asked[name]:.2f}" for name in sorted(asked))


def main() -> None:
    fabric, options = launch(__doc__ or "", steps=Recipe.steps, seed=Recipe.seed)
    pretrain(fabric, Recipe(steps=options.steps, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
