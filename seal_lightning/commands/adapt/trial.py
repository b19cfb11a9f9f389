"""A short trial of what `seal adapt` will do: how fast edits are written, learnt and answered about.

A single sequence or question takes nearly as long as a batch, so the trial uses batches as large as the real ones: the
edits of one unit, a few optimizer steps of as many adapters as train side by side, and one batch of answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import fmean
from typing import TypeVar

import torch

from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.data.documents import Document
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock
from seal_lightning.sampling import LocalAnswerer, LocalSampler
from seal_lightning.seeding import derive_seed
from seal_lightning.types import AdapterJob, Context, Query, TrainingSequence

_Value = TypeVar("_Value")
STEPS = 3  # the first sets things up and is not timed
OUTSIDE_EDITS = 2  # from an editor elsewhere, which may charge for them


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """How fast training was.

    Attributes:
        per_token: Seconds a token.
        adapters: Adapters that trained side by side.
        batch: Sequences in a step of each adapter.
    """

    per_token: float
    adapters: int
    batch: int


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast writing and answering were.

    Attributes:
        edit_tokens: Mean tokens of an edit.
        per_written: Seconds a written token.
        texts: Edits written at the same time.
        per_answer: Seconds an answer.
        answer_tokens: Mean tokens of an answer.
        answers: Answers given at the same time.
        sequences: Training sequences of an edit, or of a passage if passages are learnt themselves.
    """

    edit_tokens: float
    per_written: float
    texts: int
    per_answer: float
    answer_tokens: float
    answers: int
    sequences: tuple[TrainingSequence, ...]


def try_out(
    e_step: EStep, policy: Policy, documents: Sequence[Document], choice: EditChoice, *, unit: int, answers: int
) -> Speeds:
    """Write about the first passages, and answer questions.

    Args:
        e_step: The E-step that writes and asks.
        policy: The frozen policy.
        documents: All documents.
        choice: How edits are made.
        unit: Passages that are written about together.
        answers: Answers that the run will take in all.
    """
    passages = [passage for document in documents for passage in document.passages]
    edit_tokens, per_written, texts, sequences = 0.0, 0.0, 0, e_step.task.passage_sequences(passages[0])
    if choice.learn == "edits":
        here = isinstance(e_step.sampler, LocalSampler)
        few = replace(e_step, plan=Plan(edits=min(OUTSIDE_EDITS, choice.plan.edits), repeats=1))
        some = passages[:unit] if here else passages[:1]
        edits, seconds = _timed(lambda: (e_step if here else few).write_edits(policy, some, round=0))
        counts = [edit.tokens.get("edit", 0) for edit in edits]
        edit_tokens, per_written, texts = fmean(counts), seconds / max(1, sum(counts)), len(counts)
        parsed = e_step.task.parse(edits[0].text, passages[0]).training_sequences
        sequences = parsed or sequences
    size = e_step.answerer.batch_size if isinstance(e_step.answerer, LocalAnswerer) else 1
    asked = list(islice(cycle(_queries(documents)), min(size, answers)))
    replies, answering = _timed(
        lambda: e_step.ask(policy, [[query] for query in asked], clock=Clock(lambda progress: None)) if asked else []
    )
    return Speeds(
        edit_tokens=edit_tokens,
        per_written=per_written,
        texts=texts,
        per_answer=answering / max(1, len(asked)),
        answer_tokens=sum(reply.tokens for reply in replies) / max(1, len(asked)),
        answers=len(asked),
        sequences=sequences,
    )


def training_speed(
    loop: InnerLoop, policy: Policy, sequences: Sequence[TrainingSequence], *, adapters: int, per_adapter: int
) -> TrainingSpeed:
    """Train a few steps.

    Args:
        loop: Settings of the training.
        policy: The frozen policy.
        sequences: Training sequences, used over and over.
        adapters: Adapters that the run will make in all; the trial trains as many side by side as the run.
        per_adapter: Sequences of one adapter, which its batch cannot exceed.
    """
    together = max(1, min(adapters, loop.slots(policy.model)))
    batch = max(1, min(loop.batch_size, per_adapter))
    learnt = tuple(islice(cycle(sequences), batch * STEPS))
    jobs = [AdapterJob(learnt, seed=derive_seed("estimate", number)) for number in range(together)]
    moments: list[float] = []

    def note(count: int) -> None:
        _wait()
        moments.append(time.perf_counter())

    started = time.perf_counter()
    trained = replace(loop, epochs=1).adapt(policy, jobs, on_step=note, until=[STEPS] * together)
    return TrainingSpeed(_per_token(trained, moments, started), together, batch)


def _per_token(trained: TrainedBank, moments: Sequence[float], started: float) -> float:
    """Seconds a token, without the first step if there are others."""
    tokens = sum(stats.trained_tokens for stats in trained.stats)
    if len(moments) < 2:
        return (time.perf_counter() - started) / max(1, tokens)
    timed = (len(moments) - 1) / len(moments)
    return (moments[-1] - moments[0]) / max(1.0, timed * tokens)


def _queries(documents: Sequence[Document]) -> list[tuple[Context, Query]]:
    """The queries of the documents, or a stand-in if they have none."""
    queries = [(document.context, query) for document in documents for query in document.context.queries]
    first = documents[0]
    return queries or [(first.passages[0], Query(f"What is {first.context.title or 'this'}?", ("",)))]


def _timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    started = time.perf_counter()
    done = work()
    _wait()
    return done, time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
