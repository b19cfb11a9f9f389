"""What the grid model is pre-trained on: puzzles of training rules, and self-edits of every kind alike.

It begins with bare documents: a pair or two behind the name of their symmetry, which is how the model learns to find
the cell that a cell comes from. Then come whole puzzles without a name, each demonstration a target, as ARC's task
writes them, and self-edits whose choices are drawn blindly: the model learns their form and no preference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from seal_lightning.data.grid_rules import Rule, Step, draw_pairs, draw_puzzle, draw_rule
from seal_lightning.data.synthetic_arc import LEVELS
from seal_lightning.policy import Policy
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import LOSSES
from seal_lightning.tasks.arc.grids import DIGITS
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of, write_input
from seal_lightning.tasks.arc.task import ArcTask

Pieces = list[tuple[str, float]]  # texts and the weight of their tokens' loss

KINDS: Sequence[tuple[str, ...]] = ((), ("symmetry",), ("colours",), ("colours", "symmetry"))  # families of a rule
RATES = ("0.00001", "0.00003", "0.0001", "0.0003", "0.001", "0.003")
EPOCHS = (1, 2, 3, 5, 8, 12)
# What is one token, beside the words: the seams of a puzzle.
SEAMS = ("Input:\n", "\nOutput:\n", "\n\nInput:\n", "\n\n")


class GridCorpus:
    """An endless corpus; documents come from generators of the caller's."""

    def __init__(self) -> None:
        self.task = ArcTask()

    def bare_document(self, draw: random.Random) -> Pieces:
        """The name of a symmetry and pairs that follow it, in as many colours as there are."""
        rule = Rule((Step("symmetry", (draw.randrange(1, 8),)),)) if draw.random() < 0.85 else Rule(())
        pairs = draw_pairs(draw, rule, replace(LEVELS["easy"].shape, colours=(6, 9)), count=draw.choice((1, 2)))
        assert pairs is not None, "a grid of so many colours is always changed"
        return pieces_of(pairs, first=1.0, title=rule.name or "identity")

    def puzzle_document(self, draw: random.Random, *, split: str = "train") -> Pieces:
        """A puzzle of a training rule; nothing can be known of the first output, so it counts little."""
        return pieces_of(self.puzzle(draw, draw.choices(KINDS, weights=(1, 4, 3, 2))[0], split=split).pairs, first=0.1)

    def puzzle(self, draw: random.Random, families: Sequence[str], *, split: str = "train") -> Puzzle:
        """A puzzle of a rule that has a step of each of these families."""
        while True:
            rule = draw_rule(draw, families=families, steps=len(families), split=split) if families else Rule(())  # type: ignore[arg-type]
            if rule is not None:
                shape = replace(LEVELS["easy"].shape, demonstrations=(1, 3), colours=(2, 5))
                if (puzzle := draw_puzzle(draw, rule, shape)) is not None:
                    return puzzle

    def edit_document(self, draw: random.Random) -> Pieces:
        """The request for a self-edit, and one in which everything is drawn alike."""
        families = {family: draw.choice(("true", "false")) for family in FAMILIES}
        chosen = {**families, "loss": f'"{draw.choice(LOSSES)}"', "learning_rate": draw.choice(RATES)}
        fields = [f'"{name}": {value}' for name, value in {**chosen, "epochs": draw.choice(EPOCHS)}.items()]
        puzzle = self.puzzle(draw, draw.choice(KINDS[1:]))
        prompt = self.task.prompt(context_of(puzzle, id="document"))
        return [(Policy(None, None, chat=False).format(prompt), 0.0), ("{" + ", ".join(fields) + "}", 1.0)]

    def texts(self) -> Iterator[str]:
        """All words, for the tokenizer; digits stay apart."""
        draw = random.Random(0)
        yield from ("symmetry", "identity", "Input", "Output", *FAMILIES, *LOSSES, *(f" {loss}" for loss in LOSSES))
        for text, _ in self.edit_document(draw):
            yield "".join(" " if letter.isdigit() else letter for letter in text)
        yield " true false"


def pieces_of(pairs: Sequence[Pair], *, first: float, title: str = "") -> Pieces:
    """Pairs as the task writes them; the first output has a weight of its own, and inputs hardly any: they are drawn."""
    pieces: Pieces = [(title, 0.0)] if title else []
    for number, pair in enumerate(pairs):
        seam = "\n\n" if pieces else ""
        pieces += [(seam + write_input(pair.input), 0.02), (DIGITS.encode(pair.output), 1.0 if number else first)]
    return pieces
