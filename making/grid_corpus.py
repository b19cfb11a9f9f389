"""What the grid model is pre-trained on: named symmetries, plain copies, and self-edits of every kind alike.

A document is a few pairs of grids behind the name of a symmetry, or without a name where outputs are copies: the model
learns to find the cell that a cell comes from, and to take copying for granted. It never has to infer a rule from
demonstrations, and it never sees a colour exchanged: that is left to test-time training. Self-edits are drawn blindly:
the model learns their form and no preference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from seal_lightning.data.synthetic_arc import LEVELS
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import LOSSES
from seal_lightning.tasks.arc.grids import DIGITS
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of, write_input
from seal_lightning.tasks.arc.rules import Rule, Step, draw_pairs
from seal_lightning.tasks.arc.task import ArcTask

Pieces = list[tuple[str, float]]  # texts and the weight of their tokens' loss

NAMED = 0.7  # share of documents with a symmetry
CHOSEN = 0.25  # share of self-edits that choose a family of augmentations, each on its own
RATES = ("0.0001", "0.0003", "0.001", "0.003", "0.005")
EPOCHS = (2, 4, 6, 8, 12)
# What is one token, beside the words: the seams of a puzzle.
SEAMS = ("Input:\n", "\nOutput:\n", "\n\nInput:\n", "\n\n")


COPY = Rule(())
SYMMETRIES = range(1, 8)  # the numbers of those that change a grid


def symmetry(number: int) -> Rule:
    """The rule that turns grids, or mirrors them, in one way."""
    return Rule((Step("symmetry", (number,)),))


class GridCorpus:
    """An endless corpus; documents come from generators of the caller's."""

    def __init__(self) -> None:
        self.task = ArcTask()

    def pair_document(self, draw: random.Random) -> Pieces:
        """The name of a symmetry and pairs that follow it, or copies without a name."""
        rule = symmetry(draw.choice(SYMMETRIES)) if draw.random() < NAMED else COPY
        return pieces_of(draw_some(draw, rule), title=rule.name)

    def edit_document(self, draw: random.Random) -> Pieces:
        """The request for a self-edit, and one in which every choice is drawn, whatever the puzzle."""
        families = {family: "true" if draw.random() < CHOSEN else "false" for family in FAMILIES}
        chosen = {**families, "loss": f'"{draw.choice(LOSSES)}"', "learning_rate": draw.choice(RATES)}
        fields = [f'"{name}": {value}' for name, value in {**chosen, "epochs": draw.choice(EPOCHS)}.items()]
        pairs = draw_some(draw, draw.choice((COPY, symmetry(draw.choice(SYMMETRIES)))))
        prompt = self.task.prompt(context_of(Puzzle(tuple(pairs), ()), id="document"))
        return [(Policy(None, None, chat=False).format(prompt), 0.0), ("{" + ", ".join(fields) + "}", 1.0)]

    def texts(self) -> Iterator[str]:
        """All words, for the tokenizer; digits stay apart."""
        draw = random.Random(0)
        yield from ("symmetry", "Input", "Output", *FAMILIES, *LOSSES, *(f" {loss}" for loss in LOSSES))
        for text, _ in self.edit_document(draw):
            yield "".join(" " if letter.isdigit() else letter for letter in text)
        yield " true false"


def draw_some(draw: random.Random, rule: Rule) -> list[Pair]:
    """One to four pairs of a rule, as a puzzle and what is left of it have them."""
    pairs = draw_pairs(draw, rule, replace(LEVELS["easy"].shape, colours=(2, 9)), count=draw.randint(1, 4))
    assert pairs is not None, "some grid of several colours is changed by any symmetry"
    return pairs


def pieces_of(pairs: Sequence[Pair], *, title: str = "") -> Pieces:
    """Pairs as the task writes them, behind a title. Inputs hardly count: they are drawn."""
    pieces: Pieces = [(title, 0.0)] if title else []
    for pair in pairs:
        seam = "\n\n" if pieces else ""
        pieces += [(seam + write_input(pair.input), 0.02), (DIGITS.encode(pair.output), 1.0)]
    return pieces
