"""The teacher of a distillation: the frozen model, which reads an edit's source before each training sequence.

It is asked once about every sequence of the adapters at work, however often they train on it, and adapters with the
same sequences share what it says: repeats of an edit, or edits that say the same. Only states are kept, (n, d) a
sequence, from which its distributions are made a chunk at a time. Where a model's logits are not made by a plain output
layer, whole logits would have to be kept; then it is asked anew at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from seal_lightning.inner_loop.isolation.training import TrainingWay
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence, TrainingBatch
from seal_lightning.inner_loop.plans import Encoded

Lesson = tuple[tuple[int, ...], tuple[int, ...]]  # what is read first, and the tokens that it is asked about


class Teacher:
    """What the frozen model says about training sequences, with their sources before them.

    Args:
        model: Frozen, and without adapters.
        head_loss: Knows what the model's logits are made from.
        way: How sequences share forward passes.
    """

    def __init__(self, model: PreTrainedModel, head_loss: HeadLoss, way: TrainingWay) -> None:
        self.model, self.head_loss, self.way = model, head_loss, way
        self._said: dict[Lesson, torch.Tensor] = {}
        self._jobs: Sequence[int] = ()  # whose sequences these are

    @property
    def keeps(self) -> bool:
        """Whether what it says is small enough to be kept for a whole training."""
        return self.head_loss.head is not None

    def prepare(self, sequences: Iterable[Encoded], *, jobs: Sequence[int], max_tokens: int) -> None:
        """Ask about the sequences that were not asked about yet, and forget all others.

        Args:
            sequences: Those that are needed next.
            jobs: The jobs that they belong to; where it keeps what it says, the same jobs have nothing new to ask.
            max_tokens: Tokens of a forward pass; a single longer sequence goes over.
        """
        if self.keeps and jobs == self._jobs:
            return
        wanted = dict.fromkeys(map(lesson_of, sequences))
        self._said = {lesson: said for lesson, said in self._said.items() if lesson in wanted}
        missing = [lesson for lesson in wanted if lesson not in self._said]
        asked = [
            PackedSequence(number, [*source, *told], len(source), 1.0) for number, (source, told) in enumerate(missing)
        ]
        for batch in self.way.passes(asked, max_tokens=max_tokens) if asked else ():
            states = self.way.states(self.model, self.head_loss, batch.to(self.model.device))
            for number, said in zip(*_by_owner(batch, states), strict=True):
                self._said[missing[number]] = said
        self._jobs = jobs

    def about(self, sequence: Encoded) -> torch.Tensor:
        """What it said in place of the sequence's `told` tokens, (n, d)."""
        return self._said[lesson_of(sequence)]


def lesson_of(sequence: Encoded) -> Lesson:
    """What makes two sequences one to the teacher."""
    return tuple(sequence.source), tuple(sequence.told)


def _by_owner(batch: TrainingBatch, states: torch.Tensor) -> tuple[list[int], Sequence[torch.Tensor]]:
    """The sequences of a batch, and the states of each."""
    owners, counts = torch.unique_consecutive(batch.owners, return_counts=True)
    return owners.tolist(), [part.clone() for part in states.split(counts.tolist())]
