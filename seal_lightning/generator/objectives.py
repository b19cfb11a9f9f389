"""What a generator is trained towards.

`EndToEnd` and `Distill` take gradients through the bank; `Reinforce` (in `reinforce.py`) needs scores alone.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import ClassVar

import torch

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.generator.base import Adapters
from seal_lightning.generator.lessons import Classroom, Exercise, ScoredContext, Teaching, text_of
from seal_lightning.generator.reading import tokens_of
from seal_lightning.inner_loop.capacity import PASS_ON_CPU
from seal_lightning.inner_loop.objectives import Distillation
from seal_lightning.inner_loop.packing import PackedSequence, TrainingBatch, pad
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context, Prompt, Query


class Objective(Remembers, ABC):
    """What a generator is trained towards."""

    noise: float = 0.0  # standard deviation of the Gaussian that the E-step draws codes from
    in_words: bool = False  # whether it needs answers in words
    spares: ClassVar[bool] = False  # whether some of the network's weights may have no gradient

    @abstractmethod
    def loss(self, classroom: Classroom, lessons: Sequence[ScoredContext]) -> torch.Tensor:
        """The loss of each lesson, (N,), differentiable by the network's weights."""

    def check(self, classroom: Classroom, contexts: Sequence[Context]) -> None:
        """Raise `ModelError` where something is too long to learn from; by default queries are the longest."""
        del classroom, contexts


class EndToEnd(Objective):
    """Cross-entropy through the bank: on the queries, on the passage itself, and on how it goes on.

    Args:
        queries: Weight of the loss of the queries' answers.
        reconstruction: Weight of the loss of the passage, which the adapter was made from.
        continuation: Weight of the loss of the second half of a passage, under an adapter made from its first half.
        others: Weight of KL(frozen model ‖ adapted model) for the first tokens of answers about the next context of the
            batch, of which the passage says nothing; without it an adapter may answer any query from its passage.
    """

    def __init__(
        self,
        *,
        queries: float = 1.0,
        reconstruction: float = 0.0,
        continuation: float = 0.0,
        others: float = 0.0,
    ) -> None:
        weights = {"queries": queries, "reconstruction": reconstruction, "continuation": continuation}
        for name, weight in {**weights, "others": others}.items():
            if not weight >= 0:
                raise ConfigError(f"model.objective.{name} must be 0 or more, got {weight}")
        if not any(weights.values()):
            raise ConfigError(f"model.objective: one of {', '.join(weights)} must be above 0, got none")
        self.queries, self.reconstruction, self.continuation = queries, reconstruction, continuation
        self.others, self.in_words = others, others > 0

    def loss(self, classroom: Classroom, lessons: Sequence[ScoredContext]) -> torch.Tensor:
        texts = [text_of(classroom.task, lesson.context) for lesson in lessons]
        adapters = classroom.network(classroom.read_texts(texts))
        total = classroom.drift(adapters)
        if self.queries:
            asked = [classroom.query_exercises(lesson.context) for lesson in lessons]
            total = total + self.queries * classroom.losses(adapters, asked, classroom.query_loss)
        if self.reconstruction:
            whole = [_pieces(Exercise(tokens_of(classroom.policy, text), 0), classroom.policy.window) for text in texts]
            total = total + self.reconstruction * classroom.losses(adapters, whole, classroom.text_loss)
        if self.continuation:
            total = total + self.continuation * self._continued(classroom, texts)
        if self.others and len(lessons) > 1:
            total = total + self.others * self._on_others(classroom, adapters, lessons)
        return total

    def _on_others(self, classroom: Classroom, adapters: Adapters, lessons: Sequence[ScoredContext]) -> torch.Tensor:
        """How far each adapter takes the answers about the next context from what the frozen model says."""
        asked: list[list[Exercise]] = []
        for lesson in (*lessons[1:], lessons[0]):
            exercises = classroom.query_exercises(lesson.context)
            asked.append([replace(one, tokens=one.tokens[: one.start + 1], targets=None) for one in exercises])
        return classroom.losses(adapters, _taught(classroom, asked, asked, Distillation()), classroom.text_loss)

    def _continued(self, classroom: Classroom, texts: Sequence[str]) -> torch.Tensor:
        """The loss of the second half of each text under an adapter made from its first."""
        halves = [_first_half(text) for text in texts]
        adapters = classroom.network(classroom.read_texts(halves))
        window = classroom.policy.window
        rest = [_pieces(_behind(classroom, half, text), window) for half, text in zip(halves, texts, strict=True)]
        return classroom.losses(adapters, rest, classroom.text_loss)


def _first_half(text: str) -> str:
    """The first half of a text: by words, or by characters where there are no spaces between words."""
    words = text.split(" ")
    return " ".join(words[: -(-len(words) // 2)]) if len(words) > 1 else text[: -(-len(text) // 2)]


def _pieces(exercise: Exercise, window: int) -> list[Exercise]:
    """An exercise in pieces of the window's length, as texts are read, without those in which nothing is learnt."""
    tokens, start = exercise.tokens, exercise.start
    return [
        Exercise(tokens[first : first + window], max(0, start - first))
        for first in range(0, len(tokens), window)
        if start < first + window and len(tokens) > first + 1
    ]


def _behind(classroom: Classroom, beginning: str, text: str) -> Exercise:
    """A text of which what comes after its beginning is learnt."""
    tokens, start = classroom.policy.encoder.sequence(text[len(beginning) :], prompt=beginning, ended=True)
    return Exercise(tokens, start)


def _taught(
    classroom: Classroom,
    asked: Sequence[Sequence[Exercise]],
    told: Sequence[Sequence[Exercise]],
    objective: Distillation,
) -> list[list[Exercise]]:
    """Exercises towards what the frozen model says about the same tokens in others."""
    states = [classroom.text_loss.states(batch) for batch in _passes(list(chain(*told)), classroom.policy.device)]
    said = iter(torch.cat(states).split([len(one.tokens) - one.start for one in chain(*told)]))
    return [[replace(one, teaching=Teaching(objective, next(said))) for one in some] for some in asked]


def _passes(told: Sequence[Exercise], device: torch.device) -> Iterator[TrainingBatch]:
    """What a teacher is asked, in their order, as many at a time as a forward pass takes."""
    waiting: list[PackedSequence] = []
    for one in told:
        longest = max(len(one.tokens), *(len(other.tokens) for other in waiting), 0)
        if waiting and longest * (len(waiting) + 1) > PASS_ON_CPU:
            yield pad(waiting).to(device)
            waiting = []
        waiting.append(one.packed(0, 1.0))
    yield pad(waiting).to(device)


class Distill(Objective):
    """The answers' distribution of the frozen model that has the passage in its context (arXiv 2412.14964).

    The loss is KL(frozen model with the passage ‖ adapted model without it), mean over the tokens of the gold answers.

    Args:
        temperature: Both distributions are softened by it.
        prompt: How the frozen model is asked with the passage, where `{title}`, `{passage}` and `{question}` are filled
            in; null is the text that the generator reads, an empty line, and the query as it is asked closed-book.
    """

    def __init__(self, *, temperature: float = 1.0, prompt: str | None = None) -> None:
        if not temperature > 0:
            raise ConfigError(f"model.objective.temperature must be above 0, got {temperature}")
        lacking = [name for name in ("{passage}", "{question}") if prompt is not None and name not in prompt]
        if lacking:
            raise ConfigError(
                f"model.objective.prompt must have {lacking[0]} in it, got {shortened(prompt or '', 60)!r}: add it"
            )
        self.temperature, self.prompt, self.in_words = temperature, prompt, True

    def loss(self, classroom: Classroom, lessons: Sequence[ScoredContext]) -> torch.Tensor:
        texts = [text_of(classroom.task, lesson.context) for lesson in lessons]
        adapters = classroom.network(classroom.read_texts(texts))
        closed, opened = [], []
        for lesson, text in zip(lessons, texts, strict=True):
            context = lesson.context
            asked = [(classroom.task.query_prompt(query, context), query) for query in context.queries]
            closed.append([self._answered(classroom, prompt, query) for prompt, query in asked])
            opened.append(self._with_passages(classroom, context, text))
        taught = _taught(classroom, closed, opened, Distillation(temperature=self.temperature))
        return classroom.drift(adapters) + classroom.losses(adapters, taught, classroom.text_loss)

    def check(self, classroom: Classroom, contexts: Sequence[Context]) -> None:
        window = classroom.policy.window
        for context in contexts:
            told = self._with_passages(classroom, context, text_of(classroom.task, context))
            if (longest := max((len(one.tokens) for one in told), default=0)) > window:
                raise ModelError(
                    f"context {shortened(context.id, 60)!r}: a query with its passage and answer has {longest} tokens, "
                    f"more than the model's window of {window}, and Distill asks the frozen model so: shorten or "
                    "split the passage, or use EndToEnd"
                )

    def _with_passages(self, classroom: Classroom, context: Context, text: str) -> list[Exercise]:
        """The queries of a context as the frozen model is asked them."""
        prompts = [self._with_passage(classroom, context, query, text) for query in context.queries]
        return [self._answered(classroom, *pair) for pair in zip(prompts, context.queries, strict=True)]

    def _answered(self, classroom: Classroom, prompt: Prompt, query: Query) -> Exercise:
        """A prompt and the answer; what a base model says after it depends on the words around it, so it has no end."""
        return classroom.in_words.answered(classroom.policy, prompt, query, ended=False)

    def _with_passage(self, classroom: Classroom, context: Context, query: Query, text: str) -> Prompt:
        """What the frozen model is asked."""
        if self.prompt is None:
            asked = classroom.task.query_prompt(query, context)
            return replace(asked, user=f"{text}\n\n{asked.user}")
        parts = {"{title}": context.title, "{passage}": context.passage, "{question}": query.question}
        return Prompt(re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], self.prompt))
