"""What adapting will take, before it is done: tokens, time and memory, from a trial on the first passage.

One passage is written about, learnt for two optimizer steps and asked about; the rest follows from counts. Edits are
taken to be as long as those of the trial. Batches of the real work are larger, so it is rather faster than estimated.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

import torch

from seal_lightning.adapt.edits import Writing
from seal_lightning.adapters.bank import find_targets, parameters_of
from seal_lightning.data.documents import Document
from seal_lightning.e_step import EStep
from seal_lightning.inner_loop import InnerLoop
from seal_lightning.phases import Clock
from seal_lightning.policy import Policy
from seal_lightning.screen import duration
from seal_lightning.seeding import derive_seed
from seal_lightning.tables import table
from seal_lightning.types import AdapterJob, Query

_Value = TypeVar("_Value")
TRIAL_STEPS = 2
TRIAL_EDITS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One line: what is done, how often, with how many tokens, in how many seconds."""

    name: str
    amount: str
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Rates:
    """What the trial found."""

    edit_tokens: float  # of an edit
    per_written: float  # seconds a token
    per_trained: float
    per_answer: float  # seconds an answer
    answer_tokens: float  # of an answer


def estimate(
    e_step: EStep, policy: Policy, documents: Sequence[Document], writing: Writing, loops: Sequence[InnerLoop]
) -> str:
    """The estimate as text.

    Args:
        e_step: Writes, trains and asks.
        policy: Frozen.
        documents: All of them.
        writing: How edits are made.
        loops: One for each way in which adapters are trained at the end: one a document, one for all.
    """
    passages = [passage for document in documents for passage in document.passages]
    rates = _try(e_step, policy, documents[0], writing)
    read = sum(policy.count(passage.passage) for passage in passages)
    steps: list[Step] = []
    learnt = float(read)
    if writing.learn == "edits":
        plan = writing.plan
        prompts = sum(len(policy.encode(policy.format(e_step.task.prompt(passage)))) for passage in passages)
        written = len(passages) * plan.edits * rates.edit_tokens
        amount = f"{len(passages)} passages x {plan.edits}"
        steps.append(Step("self-edits", amount, prompts * plan.edits + written, written * rates.per_written))
        if writing.rewarded and plan.score_by == "queries":
            trials = plan.edits * plan.repeats
            trained = (len(passages) * trials * rates.edit_tokens + trials * read) * e_step.inner_loop.epochs
            amount = f"{len(passages) * trials} adapters"
            steps.append(Step("their rewards: training", amount, trained, trained * rates.per_trained))
            own = e_step.questioner.count
            asked = sum(len(passage.queries) or own for passage in passages) * (trials + 1)
            steps.append(_asking("their rewards: answers", asked, rates))
        learnt += len(passages) * (writing.keep or plan.edits) * rates.edit_tokens
    queries = sum(len(document.context.queries) for document in documents)
    for loop in loops:
        tokens = learnt * loop.epochs
        amount = "one for each document" if loop is e_step.inner_loop else "one for all"
        steps.append(Step("final adapters", amount, tokens, tokens * rates.per_trained))
    if queries:
        steps.append(_asking("scores before and after", queries * (1 + len(loops)), rates))
    rows = [[one.name, one.amount, f"{one.tokens:,.0f}", duration(one.seconds)] for one in steps]
    seconds = sum(one.seconds for one in steps)
    rows.append(["together", "", f"{sum(one.tokens for one in steps):,.0f}", duration(seconds)])
    return f"{table(['', 'amount', 'tokens', 'time'], rows)}\n\n{_memory(e_step, policy)}"


def _asking(name: str, answers: int, rates: _Rates) -> Step:
    return Step(name, f"{answers:,} answers", answers * rates.answer_tokens, answers * rates.per_answer)


def _try(e_step: EStep, policy: Policy, document: Document, writing: Writing) -> _Rates:
    passage = document.passages[0]
    edit_tokens, per_written = 0.0, 0.0
    if writing.learn == "edits":
        plan = replace(writing.plan, edits=min(TRIAL_EDITS, writing.plan.edits))
        edits, seconds = _timed(lambda: e_step.write_edits(policy, [passage], plan=plan, round=0))
        counts = [edit.tokens.get("edit", 0) for edit in edits]
        edit_tokens, per_written = fmean(counts), seconds / max(1, sum(counts))
    job = AdapterJob(e_step.task.passage_sequences(passage), seed=derive_seed("estimate"))
    trained, training = _timed(
        lambda: e_step.inner_loop.adapt(policy.model, policy.tokenizer, [job], until=[TRIAL_STEPS])
    )
    query = next(iter(document.context.queries), Query(f"What is {document.context.title or 'this'}?", ("",)))
    replies, answering = _timed(
        lambda: e_step.ask(policy, [[(passage, query)]], jobs=[0], trained=trained, clock=Clock(lambda progress: None))
    )
    return _Rates(
        edit_tokens=edit_tokens,
        per_written=per_written,
        per_trained=training / max(1, trained.stats[0].trained_tokens),
        per_answer=answering,
        answer_tokens=replies[0].tokens,
    )


def _timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    started = time.perf_counter()
    done = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done, time.perf_counter() - started


def _memory(e_step: EStep, policy: Policy) -> str:
    weights = sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())
    loop = e_step.inner_loop
    slots = loop.slots(policy.model)
    adapters = slots * 16 * parameters_of(find_targets(policy.model, loop.target_modules), loop.rank)
    cuda = policy.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"memory: {_size(weights)} of weights, {_size(adapters)} for {slots} adapters at a time with their optimizer, "
        f"{_size(peak)} at most in the trial {'on the GPU' if cuda else 'of the whole process'}"
    )


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
