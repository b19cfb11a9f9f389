"""The estimate of `seal adapt --dry_run`: tokens, time and memory, from a short trial.

The trial (`trial.py`) writes about one unit of passages, trains a few steps and asks a batch of questions; the rest is
counting. Edits are assumed to be as long as those of the trial.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.commands.adapt.trial import Speeds, TrainingSpeed, training_speed, try_out
from seal_lightning.data.documents import Document
from seal_lightning.e_step.step import EStep
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets, parameters_of
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import duration
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.plural import counted
from seal_lightning.types import Context


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """One line of the estimate: what is done, how often, with how many tokens, in how many seconds."""

    name: str
    amount: str
    tokens: float
    seconds: float


@dataclass(slots=True)
class Estimate:
    """The estimate at work.

    Args:
        e_step: The E-step that writes, trains and asks.
        policy: The frozen policy.
        documents: All documents.
        choice: How edits are made.
        loops: One for each way in which adapters are trained at the end: one a document, one for all.
        contexts_per_unit: Passages that are worked on together.
    """

    e_step: EStep
    policy: Policy
    documents: Sequence[Document]
    choice: EditChoice
    loops: Sequence[InnerLoop]
    contexts_per_unit: int
    rows: list[EstimateRow] = field(default_factory=list)
    speeds: list[TrainingSpeed] = field(default_factory=list)

    def text(self) -> str:
        """The table, and what it rests on."""
        queries = sum(len(document.context.queries) for document in self.documents)
        answers, asked = queries * (1 + len(self.loops)), self._asked_for_rewards()
        trial = try_out(
            self.e_step,
            self.policy,
            self.documents,
            self.choice,
            unit=self.contexts_per_unit,
            answers=asked or answers,
        )
        if self.choice.learn == "edits":
            self._writing(trial)
        if asked:
            self._rewards(trial, asked)
        for loop in self.loops:
            self._final_adapters(trial, loop)
        if queries:
            self._add_answers("scores before and after", answers, trial)
        rows = [(row.name, row.amount, f"{row.tokens:,.0f}", duration(row.seconds)) for row in self.rows]
        tokens, seconds = sum(row.tokens for row in self.rows), sum(row.seconds for row in self.rows)
        rows.append(("together", "", f"{tokens:,.0f}", duration(seconds)))
        text = to_markdown(Table("", ("", "amount", "tokens", "time"), tuple(rows)))
        return f"{text}\n\n{_assumed(trial, self.speeds)}\n{_memory(self.e_step, self.policy)}"

    @property
    def _passages(self) -> list[Context]:
        return [passage for document in self.documents for passage in document.passages]

    @property
    def _read(self) -> int:
        """Tokens of all passages."""
        return sum(self.policy.count(passage.passage) for passage in self._passages)

    @property
    def _adapters_a_passage(self) -> int:
        return self.choice.plan.edits * self.choice.plan.repeats

    def _asked_for_rewards(self) -> int:
        """Answers that the rewards of the edits take."""
        if not self.choice.rewarded or self.choice.plan.score_by != "queries":
            return 0
        own = self.choice.own.query_writer.count if self.choice.own else 0
        queries = sum(len(passage.queries) or own for passage in self._passages)
        return queries * (self._adapters_a_passage + 1)

    def _writing(self, trial: Speeds) -> None:
        task, edits = self.e_step.task, self.choice.plan.edits
        prompts = [self.policy.encode(self.policy.format(task.prompt(passage))) for passage in self._passages]
        written = len(prompts) * edits * trial.edit_tokens
        tokens = sum(map(len, prompts)) * edits + written
        self.rows.append(
            EstimateRow("self-edits", f"{len(prompts)} passages x {edits}", tokens, written * trial.per_written)
        )

    def _rewards(self, trial: Speeds, asked: int) -> None:
        loop, each, passages = self.e_step.inner_loop, self._adapters_a_passage, len(self._passages)
        speed = self._speed(loop, trial, min(self.contexts_per_unit, passages) * each, len(trial.sequences))
        tokens = (passages * each * trial.edit_tokens + each * self._read) * loop.epochs
        amount = f"{passages * each} adapters"
        self.rows.append(EstimateRow("their rewards: training", amount, tokens, tokens * speed.per_token))
        self._add_answers("their rewards: answers", asked, trial)

    def _final_adapters(self, trial: Speeds, loop: InnerLoop) -> None:
        each, passages = loop is self.e_step.inner_loop, len(self._passages)
        kept = (self.choice.keep or self.choice.plan.edits) if self.choice.learn == "edits" else 0
        sequences = len(trial.sequences) * (kept or 1) * (len(self.documents[0].passages) if each else passages)
        speed = self._speed(loop, trial, len(self.documents) if each else 1, sequences)
        tokens = (self._read + passages * kept * trial.edit_tokens) * loop.epochs
        amount = "one for each document" if each else "one for all"
        self.rows.append(EstimateRow("final adapters", amount, tokens, tokens * speed.per_token))

    def _speed(self, loop: InnerLoop, trial: Speeds, adapters: int, per_adapter: int) -> TrainingSpeed:
        self.speeds.append(
            training_speed(loop, self.policy, trial.sequences, adapters=adapters, per_adapter=per_adapter)
        )
        return self.speeds[-1]

    def _add_answers(self, name: str, answers: int, trial: Speeds) -> None:
        tokens, seconds = answers * trial.answer_tokens, answers * trial.per_answer
        self.rows.append(EstimateRow(name, f"{answers:,} answers", tokens, seconds))


def _assumed(trial: Speeds, speeds: Sequence[TrainingSpeed]) -> str:
    """What the times assume."""
    written = f"edits of {trial.edit_tokens:.0f} tokens, written {trial.texts} at a time; " if trial.texts else ""
    trained = " and ".join(
        dict.fromkeys(f"{counted(speed.adapters, 'adapter')} with batches of {speed.batch}" for speed in speeds)
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
