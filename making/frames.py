"""Make the lab's model of grids with a frame: the grid model, shown borders.

    python -m making.frames --out DIR

Starts from `lab-grids`, which copies 3 x 3 grids and knows the form of a self-edit. It reads pairs of grids without
a name: copies, and grids with a border of any colour. It has to see in the pairs which of these it is, and takes for
granted that cells keep their colours: it never learns to write them exchanged. A second part teaches the form of a
self-edit behind such puzzles. Writes the tokenizer, the weights (float16, safetensors) and the log of the run.
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

from making.grid_corpus import COPY, GridCorpus, Pieces, pieces_of
from making.grids import row_of
from making.training import Batch, Recipe, launch, open_log, save, train
from seal_lightning.data.synthetic_arc import LEVELS
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.arc.grids import COLOURS, DIGITS
from seal_lightning.tasks.arc.puzzles import Pair
from seal_lightning.tasks.arc.rules import Rule, Step, draw_pairs, draw_rule

SHAPE = replace(LEVELS["easy"].shape, colours=(2, 9))
KINDS = {"copy": 0.25, "border": 0.75}  # shares of documents
GUESSED = 0.1  # weight of a first output, of which nothing says the kind yet
CHUNKS = 3  # of a step's documents by length: together, the longest one would pad all others


@dataclass(frozen=True)
class Part:
    """A part of the pre-training, over which the learning rate rises and falls.

    Attributes:
        steps: Optimizer steps.
        puzzles: Documents with pairs of grids in each step and process.
        edits: Documents with a self-edit.
        framed: Whether requests for a self-edit show exchanges behind a border; if not, what `lab-grids` read.
        share: Share of self-edits in the loss.
        peak: Learning rate after the warm-up.
    """

    steps: int
    puzzles: int
    edits: int
    framed: bool = False
    share: float = 0.1
    peak: float = 1.5e-3


@dataclass(frozen=True)
class FramesRecipe(Recipe):
    """Settings of the pre-training; the defaults made the weights in `lab/frames/weights`.

    Attributes:
        borders: Pairs of grids, with a few self-edits, so that their form is not forgotten.
        edits: Self-edits behind grids with a border, with some pairs of grids among them.
    """

    warmup: int = 20
    borders: Part = Part(steps=400, puzzles=24, edits=1)
    edits: Part = Part(steps=50, puzzles=12, edits=6, framed=True, share=0.4, peak=6e-4)


def rule_of(draw: random.Random, kind: str) -> Rule:
    """A rule of this kind; borders have any colour."""
    return Rule((Step("border", (draw.randrange(1, COLOURS),)),)) if kind == "border" else COPY


def draw_some(draw: random.Random, kind: str, *, count: int) -> list[Pair]:
    """Pairs of one kind."""
    pairs = draw_pairs(draw, rule_of(draw, kind), SHAPE, count=count)
    assert pairs is not None, "each of these rules changes any grid"
    return pairs


def document(draw: random.Random) -> Pieces:
    """Two to four pairs of a kind, as a puzzle and what is left of it have them."""
    (kind,) = draw.choices([*KINDS], [*KINDS.values()])
    pieces = pieces_of(draw_some(draw, kind, count=draw.randint(2, 4)))
    pieces[1] = (pieces[1][0], GUESSED)
    return pieces


def request_pairs(draw: random.Random) -> list[Pair]:
    """What a puzzle of `configs/arc/frames_lab.yaml` shows, of training rules. Nothing is learnt from these grids."""
    rule = draw_rule(draw, families=("colours", "border"), steps=2, split="train")
    assert rule is not None, "six of ten rules are for training"
    pairs = draw_pairs(draw, rule, SHAPE, count=draw.randint(1, 4))
    assert pairs is not None, "a border changes any grid"
    return pairs


def pretrain(fabric: Fabric, recipe: FramesRecipe, out: Path) -> None:
    """Train and write everything to `out`; the second part starts from the weights that the first one saved."""
    log = None
    for part, source in ((recipe.borders, "lab-grids"), (recipe.edits, str(out))):
        model, tokenizer, _ = load_model(ModelSource(name=source))
        log = log or open_log(fabric, model, tokenizer, out, recipe)
        learn(part, fabric=fabric, model=model, tokenizer=tokenizer, recipe=recipe, log=log)
        log(f"in the end: {solved(model, tokenizer, count=50)}")
        save(fabric, model, tokenizer, out)


def learn(
    part: Part,
    *,
    fabric: Fabric,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: FramesRecipe,
    log: Callable[[str], None],
) -> None:
    """Train the model in place, with documents of this part's own."""
    corpus = GridCorpus()
    draw = random.Random(derive_seed("frame pretraining", recipe.seed, fabric.global_rank, *["edits"] * part.framed))

    def make_batches(step: int) -> list[Batch]:
        rows = sorted((row_of(document(draw), tokenizer) for _ in range(part.puzzles)), key=lambda row: len(row[0]))
        size = -(-part.puzzles // CHUNKS)
        chunks = [rows[start : start + size] for start in range(0, part.puzzles, size)]
        requests = [request_pairs(draw) if part.framed else None for _ in range(part.edits)]
        edits = [row_of(corpus.edit_document(draw, pairs), tokenizer) for pairs in requests]
        return [
            *(Batch("puzzles", chunk, (1 - part.share) / len(chunks)) for chunk in chunks),
            Batch("edits", edits, part.share),
        ]

    examine = partial(solved, model, tokenizer)
    train(
        fabric,
        model.train(),
        make_batches,
        steps=part.steps,
        recipe=replace(recipe, peak=part.peak),
        log=log,
        examine=examine,
    )


@torch.no_grad()
def solved(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int = 20) -> str:
    """Share of each kind's last outputs, after three pairs, that are wholly right."""
    draw = random.Random(1)
    found = []
    for kind in KINDS:
        right = 0
        for _ in range(count):
            pairs = draw_some(draw, kind, count=4)
            ids, _ = row_of(pieces_of(pairs), tokenizer)
            last = len(tokenizer.encode(DIGITS.encode(pairs[-1].output))) + 1
            best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -last - 1 : -1].argmax(-1)
            right += best.tolist() == ids[-last:]
        found.append(f"{kind} {right / count:.2f}")
    return f"solved: {', '.join(found)}"


def main() -> None:
    fabric, options = launch(__doc__ or "", steps=FramesRecipe.borders.steps, seed=FramesRecipe.seed)
    borders = replace(FramesRecipe.borders, steps=options.steps)
    pretrain(fabric, FramesRecipe(borders=borders, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
