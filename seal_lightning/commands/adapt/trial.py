"""A short trial of what adapting will do, in batches as large as the real ones: how fast texts are written, learnt and
answered.

A single sequence or question takes nearly as long as a batch of them, so what is timed here is what the work consists
of: the edits of one unit, a few optimizer steps of as many adapters as train side by side, one batch of answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import fmean
from typing import TypeVar

import torch

from seal_lightning.commands.adapt.edits import Writing
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
STEPS = 3  # of which the first sets things up and is not timed
OUTSIDE_EDITS = 2  # asked of an editor that is not here, and may charge for them


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds a token of training, and what was trained side by side to find that."""

    per_token: float
    adapters: int
    batch: int  # sequences a step of each adapter


@dataclass(frozen=True, slots=True)
class Trial:
    """What the trial found.

    Attributes:
        edit_tokens: Of an edit.
        per_written: Seconds a token.
        texts: Written at the same time.
        per_answer: Seconds an answer.
        answer_tokens: Of an answer.
        answers: Given at the same time.
        sequences: Of an edit, or of a passage that is learnt as it stands.
    """

    edit_tokens: float
    per_written: float
    texts: int
    per_answer: float
    answer_tokens: float
    answers: int
    sequences: tuple[TrainingSequence, ...]


def try_out(
    e_step: EStep, policy: Policy, documents: Sequence[Document], writing: Writing, *, unit: int, answers: int
) -> Trial:
    """Write about the first passages, and answer.

    Args:
        e_step: Writes and asks.
        policy: Frozen.
        documents: All of them.
        writing: How edits are made.
        unit: Passages that are written about together.
        answers: How many are to be given in all.
    """
    passages = [passage for document in documents for passage in document.passages]
    edit_tokens, per_written, texts, sequences = 0.0, 0.0, 0, e_step.task.passage_sequences(passages[0])
    if writing.learn == "edits":
        here = isinstance(e_step.sampler, LocalSampler)
        few = replace(e_step, plan=Plan(edits=min(OUTSIDE_EDITS, writing.plan.edits), repeats=1))
        some = passages[:unit] if here else passages[:1]
        edits, seconds = _timed(lambda: (e_step if here else few).write_edits(policy, some, round=0))
        counts = [edit.tokens.get("edit", 0) for edit in edits]
        edit_tokens, per_written, texts = fmean(counts), seconds / max(1, sum(counts)), len(counts)
        parsed = e_step.task.parse(edits[0].text, passages[0]).training_sequences
        sequences = parsed or sequences
    size = e_step.answerer.batch_size if isinstance(e_step.answerer, LocalAnswerer) else 1
    asked = list(islice(cycle(_queries(documents)), min(size, answers)))
    replies, answering = _timed(
        lambda: e_step.ask(policy, [[one] for one in asked], clock=Clock(lambda progress: None)) if asked else []
    )
    return Trial(
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
) -> Speed:
    """Train a few steps.

    Args:
        loop: Its settings.
        policy: Frozen.
        sequences: What is learnt, over and over.
        adapters: How many there are to be in all; as many train together as do in the run.
        per_adapter: Sequences of each in all, which a batch cannot exceed.
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
    return Speed(_per_token(trained, moments, started), together, batch)


def _per_token(trained: TrainedBank, moments: Sequence[float], started: float) -> float:
    """Of all steps but the first, where there are others."""
    tokens = sum(stats.trained_tokens for stats in trained.stats)
    if len(moments) < 2:
        return (time.perf_counter() - started) / max(1, tokens)
    timed = (len(moments) - 1) / len(moments)
    return (moments[-1] - moments[0]) / max(1.0, timed * tokens)


def _queries(documents: Sequence[Document]) -> list[tuple[Context, Query]]:
    """Those of the documents, else a stand-in."""
    found = [(document.context, query) for document in documents for query in document.context.queries]
    first = documents[0]
    return found or [(first.passages[0], Query(f"What is {first.context.title or 'this'}?", ("",)))]


def _timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    started = time.perf_counter()
    done = work()
    _wait()
    return done, time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
