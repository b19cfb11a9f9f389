"""Make the lab's grid model from scratch: one command, one run, two one-thread processes.

    python -m making.grids --out DIR

Writes the tokenizer, the weights (float16, safetensors) and the log of the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from making.grid_corpus import (
    COPY,
    SEAMS,
    SYMMETRIES,
    GridCorpus,
    Pieces,
    draw_some,
    pieces_of,
    symmetry,
)
from making.training import Batch, Recipe, Row, begin, launch, save, train
from seal_lightning.lab.tokenizer import END, build_tokenizer
from seal_lightning.seeding import derive_seed

ROPE_THETA = 100.0  # a cell's origin is some ten tokens back: the usual 10,000 tells such distances badly apart

LAST = 12  # tokens of a last output of 3 x 3 with the end of the text


@dataclass(frozen=True)
class Part:
    """A part of the pre-training, over which the learning rate rises and falls.

    Attributes:
        steps: Optimizer steps.
        pair_documents: Number in each step and process.
        edit_documents: Number in each step and process.
    """

    steps: int
    pair_documents: int
    edit_documents: int


@dataclass(frozen=True)
class GridsRecipe(Recipe):
    """Settings of the pre-training; the defaults made the weights in `lab/grids/weights`.

    Attributes:
        grids: Grids, with some self-edits among them.
        edits: Self-edits, with some grids among them: each field once and in its place takes a while to learn.
    """

    grids: Part = Part(steps=1300, pair_documents=32, edit_documents=1)
    edits: Part = Part(steps=300, pair_documents=8, edit_documents=12)


def pretrain(fabric: Fabric, recipe: GridsRecipe, out: Path) -> None:
    """Train and write everything to `out`."""
    tokenizer = build_tokenizer(GridCorpus().texts(), pieces=SEAMS)
    model, log = begin(fabric, tokenizer, out, recipe, rope_theta=ROPE_THETA)
    for part in (recipe.grids, recipe.edits):
        learn(part, fabric=fabric, model=model, tokenizer=tokenizer, recipe=recipe, log=log)
    log(f"in the end: {solved(model, tokenizer, count=100)}")
    save(fabric, model, tokenizer, out)


def learn(
    part: Part,
    *,
    fabric: Fabric,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: GridsRecipe,
    log: Callable[[str], None],
) -> None:
    """Train the model in place, with documents of this part's own."""
    pairs, edits = part.pair_documents, part.edit_documents
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

    examine = partial(solved, model, tokenizer)
    train(fabric, model, make_batches, steps=part.steps, recipe=recipe, log=log, examine=examine)


def row_of(pieces: Pieces, tokenizer: PreTrainedTokenizerFast) -> Row:
    """Tokens and weights of a document, with the end of the text, which counts as its last piece does."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in (*pieces, (END, pieces[-1][1])):
        tokens = tokenizer.encode(text)
        ids += tokens
        weights += [weight] * len(tokens)
    return ids, weights


@torch.no_grad()
def solved(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int = 25) -> str:
    """Share of last outputs that are wholly right: of copies, and of each symmetry with its name."""
    draw = random.Random(1)
    rules = {"copy": COPY, **{str(number): symmetry(number) for number in SYMMETRIES}}
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
    fabric, options = launch(__doc__ or "", steps=GridsRecipe.grids.steps, seed=GridsRecipe.seed)
    pretrain(fabric, GridsRecipe(grids=replace(GridsRecipe.grids, steps=options.steps), seed=options.seed), options.out)


if __name__ == "__main__":
    main()
