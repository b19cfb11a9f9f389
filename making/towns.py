"""Make the lab's model from scratch: one command, one run, two one-thread processes, under half an hour on two cores.

    python -m making.towns --out DIR

Writes the tokenizer, the weights (float16, safetensors) and the log of the run. It begins with bare documents: no
instruction, true lines only, and several about the same fact. What there is to learn in them is mostly to copy names
and values, which everything later needs and which takes longest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from making.training import Batch, Recipe, Row, begin, launch, save, train
from seal_lightning.lab.corpus import Corpus, LabText, known_queries
from seal_lightning.lab.lines import QUESTION
from seal_lightning.lab.tokenizer import END, build_tokenizer
from seal_lightning.lab.world import ATTRIBUTES, passages
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed


@dataclass(frozen=True)
class TownsRecipe(Recipe):
    """Settings of the pre-training; the defaults made the weights in `lab/weights`.

    Attributes:
        steps: Optimizer steps.
        bare: Share of the steps with bare documents.
        edit_documents: Number in each step and process.
        short_documents: Number in each step and process.
        short_weight: Weight of the short documents' loss beside the edit documents'.
        prompt_weight: Weight of a prompt token's loss beside a target token's.
        value_weight: Weight of a value within a target: reading the passage is to get these right.
    """

    steps: int = 2600
    bare: float = 0.4
    edit_documents: int = 10
    short_documents: int = 8
    short_weight: float = 0.7
    prompt_weight: float = 0.1
    value_weight: float = 3.0


def pretrain(fabric: Fabric, recipe: TownsRecipe, out: Path) -> None:
    """Train and write everything to `out`."""
    corpus = Corpus(seed=recipe.seed)
    tokenizer = build_tokenizer(corpus.texts())
    values = {token for a in ATTRIBUTES for value in a.values for token in tokenizer.encode(f" {value}")}
    model, log = begin(fabric, tokenizer, out, recipe)
    draw = random.Random(derive_seed("lab pretraining", recipe.seed, fabric.global_rank))

    def make_batches(step: int) -> list[Batch]:
        bare = step < recipe.bare * recipe.steps
        edits = [corpus.edit_document(draw, bare=bare) for _ in range(recipe.edit_documents)]
        edits.sort(key=lambda document: len(document.prompt) + len(document.text))
        shorts = [corpus.short_document(draw) for _ in range(recipe.short_documents)]
        half = len(edits) // 2
        by_length = [edits[:half], edits[half:]]  # so that little is padding
        documents = [*(("edits", some, len(some) / len(edits)) for some in by_length),
                     ("short documents", shorts, recipe.short_weight)]  # fmt: skip
        return [Batch(name, [_row(one, tokenizer, recipe, values) for one in some], share)
                for name, some, share in documents]  # fmt: skip

    def examine() -> str:
        return f"known facts {known(model, tokenizer, corpus):.2f}, reading {reading(model, tokenizer, corpus):.2f}"

    train(fabric, model, make_batches, steps=recipe.steps, recipe=recipe, log=log, examine=examine)
    log(f"in the end: known facts {known(model, tokenizer, corpus, count=960):.3f}, new facts "
        f"{unknown(model, tokenizer, corpus):.3f} (chance 0.025), reading "
        f"{reading(model, tokenizer, corpus, count=100):.3f}")  # fmt: skip
    save(fabric, model, tokenizer, out)


def _row(document: LabText, tokenizer: PreTrainedTokenizerFast, recipe: TownsRecipe, values: set[int]) -> Row:
    prompt = tokenizer.encode(document.prompt)
    text = tokenizer.encode(document.text + END)
    weights = [recipe.value_weight if token in values else 1.0 for token in text]
    return [*prompt, *text], [recipe.prompt_weight] * len(prompt) + weights


@torch.no_grad()
def known(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, *, count: int = 200) -> float:
    """Share of closed-book queries about known facts that are answered."""
    return _answered(model, tokenizer, known_queries(corpus, count=count, seed=1))


@torch.no_grad()
def unknown(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> float:
    """The same about towns that no document was about: chance."""
    fresh = passages("validation", count=60, towns=1, attributes=6, seed=99)
    queries = [corpus.question(fact, passage.title, "ask") for passage in fresh for fact in passage.facts]
    return _answered(model, tokenizer, queries)


@torch.no_grad()
def reading(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, *, count: int = 25) -> float:
    """Share of question lines after passages about fresh towns that the model ends with the right value."""
    documents = []
    for number in range(count):
        passage = passages("pretraining", count=1, towns=1, attributes=6, seed=number)[0]
        prompt = corpus.task.prompt(passage.context("document"))
        for fact in passage.facts[::2]:
            line = QUESTION.format(question=fact.question(), value="").rstrip()
            documents.append(LabText(Policy(None, None, chat=False).format(prompt) + line, f" {fact.value}"))
    return _answered(model, tokenizer, documents)


def _answered(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, queries: Sequence[LabText]) -> float:
    right = 0
    for query in queries:
        ids = torch.tensor([tokenizer.encode(query.prompt)])
        (gold,) = tokenizer.encode(query.text)
        right += int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()) == gold
    return right / len(queries)


def main() -> None:
    fabric, options = launch(__doc__ or "", steps=TownsRecipe.steps, seed=TownsRecipe.seed)
    pretrain(fabric, TownsRecipe(steps=options.steps, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
