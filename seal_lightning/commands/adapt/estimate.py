"""What adapting will take, before it is done: tokens, time and memory, from a short trial.

A unit of passages is written about, a few steps are trained and a batch of questions is asked, all as many at a time as
in the run (`trial`); the rest follows from counts. Edits are taken to be as long as those of the trial.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seal_lightning.commands.adapt.edits import Writing
from seal_lightning.commands.adapt.trial import Speed, Trial, training_speed, try_out
from seal_lightning.data.documents import Document
from seal_lightning.e_step.step import EStep
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets, parameters_of
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import duration
from seal_lightning.results.table import Table, to_markdown


@dataclass(frozen=True, slots=True)
class Step:
    """One line: what is done, how often, with how many tokens, in how many seconds."""

    name: str
    amount: str
    tokens: float
    seconds: float


def estimate(
    e_step: EStep,
    policy: Policy,
    documents: Sequence[Document],
    writing: Writing,
    loops: Sequence[InnerLoop],
    *,
    contexts_per_unit: int,
) -> str:
    """The estimate as text.

    Args:
        e_step: Writes, trains and asks.
        policy: Frozen.
        documents: All of them.
        writing: How edits are made.
        loops: One for each way in which adapters are trained at the end: one a document, one for all.
        contexts_per_unit: Passages that are worked on together.
    """
    passages = [passage for document in documents for passage in document.passages]
    queries = sum(len(document.context.queries) for document in documents)
    trials, own = writing.plan.edits * writing.plan.repeats, writing.own.query_writer.count if writing.own else 0
    is_tried = writing.learn == "edits" and writing.rewarded and writing.plan.score_by == "queries"
    asked = sum(len(passage.queries) or own for passage in passages) * (trials + 1) if is_tried else 0
    trial = try_out(
        e_step, policy, documents, writing, unit=contexts_per_unit, answers=asked or queries * (1 + len(loops))
    )
    read = sum(policy.count(passage.passage) for passage in passages)
    steps: list[Step] = []
    speeds: list[Speed] = []
    learnt = float(read)
    sequences = len(trial.sequences)
    if writing.learn == "edits":
        plan = writing.plan
        prompts = sum(len(policy.encode(policy.format(e_step.task.prompt(passage)))) for passage in passages)
        written = len(passages) * plan.edits * trial.edit_tokens
        amount = f"{len(passages)} passages x {plan.edits}"
        steps.append(Step("self-edits", amount, prompts * plan.edits + written, written * trial.per_written))
        if is_tried:
            at_once = min(contexts_per_unit, len(passages)) * trials
            speeds.append(
                training_speed(e_step.inner_loop, policy, trial.sequences, adapters=at_once, per_adapter=sequences)
            )
            trained = (len(passages) * trials * trial.edit_tokens + trials * read) * e_step.inner_loop.epochs
            amount = f"{len(passages) * trials} adapters"
            steps.append(Step("their rewards: training", amount, trained, trained * speeds[-1].per_token))
            steps.append(_asking("their rewards: answers", asked, trial))
        learnt += len(passages) * (writing.keep or plan.edits) * trial.edit_tokens
        sequences *= writing.keep or plan.edits
    for loop in loops:
        each = loop is e_step.inner_loop
        adapters = len(documents) if each else 1
        per_adapter = sequences * (len(documents[0].passages) if each else len(passages))
        speeds.append(training_speed(loop, policy, trial.sequences, adapters=adapters, per_adapter=per_adapter))
        tokens = learnt * loop.epochs
        amount = "one for each document" if each else "one for all"
        steps.append(Step("final adapters", amount, tokens, tokens * speeds[-1].per_token))
    if queries:
        steps.append(_asking("scores before and after", queries * (1 + len(loops)), trial))
    rows = [(one.name, one.amount, f"{one.tokens:,.0f}", duration(one.seconds)) for one in steps]
    seconds = sum(one.seconds for one in steps)
    rows.append(("together", "", f"{sum(one.tokens for one in steps):,.0f}", duration(seconds)))
    text = to_markdown(Table("", ("", "amount", "tokens", "time"), tuple(rows)))
    return f"{text}\n\n{_assumed(trial, speeds)}\n{_memory(e_step, policy)}"


def _asking(name: str, answers: int, trial: Trial) -> Step:
    return Step(name, f"{answers:,} answers", answers * trial.answer_tokens, answers * trial.per_answer)


def _assumed(trial: Trial, speeds: Sequence[Speed]) -> str:
    """What the times rest on."""
    written = f"edits of {trial.edit_tokens:.0f} tokens, written {trial.texts} at a time; " if trial.texts else ""
    trained = " and ".join(
        dict.fromkeys(
            f"{one.adapters} adapter{'s' if one.adapters > 1 else ''} with batches of {one.batch}" for one in speeds
        )
    )
    answered = f"; answers {trial.answers} at a time" if trial.answers else ""
    return f"assumed: {written}training as fast as a few steps of {trained}{answered}"


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
