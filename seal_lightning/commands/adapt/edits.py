"""From passages to training sequences: self-edits are written, the best of each passage kept, and read once more.

Edits are rewarded as in the E-step of a fit: each trains an adapter, which is asked the passage's queries. Where the
data has none for a passage, a model writes them from the passage; where none of those can be used, the first edits are
taken as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from typing import Literal

from seal_lightning.data import units
from seal_lightning.data.documents import Document
from seal_lightning.e_step.own_queries import NO_OWN_QUERY, OwnQueryStep
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Report
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import Journal
from seal_lightning.results.averages import by_context as group_by_context
from seal_lightning.tasks import Task
from seal_lightning.types import Context, Directives, Rollout, TrainingSequence

Learn = Literal["edits", "passage"]


@dataclass(frozen=True, slots=True)
class Writing:
    """How edits are made.

    Attributes:
        learn: `edits`, or `passage` alone, for which nothing is written.
        e_step: Writes them, and rewards them by the passages' queries or by a rubric.
        own: Rewards them by queries that a model writes, where a passage has none; None with a rubric.
        keep: Edits of each passage that are trained on; None takes all of them, so that none needs a reward.
    """

    learn: Learn
    e_step: EStep
    own: OwnQueryStep | None
    keep: int | None

    @property
    def plan(self) -> Plan:
        """Edits and repeats a passage."""
        return self.e_step.plan

    @property
    def rewarded(self) -> bool:
        return self.learn == "edits" and self.keep is not None and self.keep < self.plan.edits


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learnt of one document.

    Attributes:
        document: It.
        training_sequences: Of all passages; no sequence of a passage twice.
        directives: Of the only edit, where there is only one.
        seed: Of the adapter that earned the only edit its reward, so that this adapter is made again.
        edits: How many edits they come from.
        rewards: Mean reward of the kept edits of each passage, where they have one.
        unwritten: Passages without a usable edit, which are learnt as they stand.
        sampled: Edits that were written.
        rejected: How many of them could not be used, by reason.
    """

    document: Document
    training_sequences: tuple[TrainingSequence, ...]
    directives: Directives
    seed: int | None
    edits: int
    rewards: tuple[float, ...]
    unwritten: int
    sampled: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)


def raced_for(plan: Plan, keep: int | None) -> Plan:
    """The plan, where it races with at least as many edits left as are trained on.

    Raises:
        ConfigError: The race's budget does not suffice for them.
    """
    if plan.racing is None or keep is None or keep >= plan.edits:  # nothing has to be chosen
        return plan
    return replace(plan, racing=replace(plan.racing, keep=max(plan.racing.keep, keep)))


def write_edits(
    policy: Policy,
    documents: Sequence[Document],
    writing: Writing,
    *,
    contexts_per_unit: int,
    journal: Journal,
    screen: Screen,
    check_stop: Callable[[], None],
) -> list[Rollout]:
    """The rollouts of all passages, unit by unit; those that the journal has are not made again.

    Raises:
        RetryableError: A grader or an endpoint failed; finished units are in the journal.
    """
    work = units([passage for document in documents for passage in document.passages], contexts_per_unit)
    left = [unit for unit in range(len(work)) if unit not in journal.units]
    with screen.bar("self-edits, units of passages", len(work), done=len(work) - len(left)) as advance:
        for unit in left:
            check_stop()
            with screen.phases() as report:
                journal.append(unit, _unit(policy, work[unit], writing, report))
            advance(1)
    return list(chain.from_iterable(journal.units[unit] for unit in range(len(work))))


def _unit(policy: Policy, unit: Sequence[Context], writing: Writing, report: Report) -> list[Rollout]:
    e_step = writing.e_step
    if not writing.rewarded:
        return e_step.write_edits(policy, unit, round=0, report=report)
    if writing.own is None:
        return e_step.run(policy, unit, round=0, report=report)
    known = [context for context in unit if context.queries and writing.plan.queries == "data"]
    others = [context for context in unit if context not in known]
    found = e_step.run(policy, known, round=0, report=report) if known else []
    found += writing.own.run(policy, others, round=0, report=report) if others else []
    by_context = group_by_context(found)
    unasked = [c for c in unit if all(rollout.reason == NO_OWN_QUERY for rollout in by_context[c.id])]
    plain = e_step.write_edits(policy, unasked, round=0, report=report) if unasked else []
    by_context |= group_by_context(plain)
    return [rollout for context in unit for rollout in by_context[context.id]]


def lessons(task: Task, documents: Sequence[Document], rollouts: Sequence[Rollout], writing: Writing) -> list[Lesson]:
    """What is to be learnt of each document."""
    by_passage = group_by_context([rollout for rollout in rollouts if rollout.kind == "edit"])
    return [_lesson(task, document, by_passage, writing) for document in documents]


def kept_edits(documents: Sequence[Document], rollouts: Sequence[Rollout], writing: Writing) -> list[Rollout]:
    """The first rollout of each edit that is trained on."""
    by_passage = group_by_context([rollout for rollout in rollouts if rollout.kind == "edit"])
    passages = (passage for document in documents for passage in document.passages)
    return [one for passage in passages for one in _kept(by_passage.get(passage.id, ()), writing.keep)[0]]


def _lesson(task: Task, document: Document, rollouts: Mapping[str, Sequence[Rollout]], writing: Writing) -> Lesson:
    sequences: list[TrainingSequence] = []
    directives: list[Directives] = []
    rewards: list[float] = []
    seeds: list[int] = []
    unwritten = 0
    for passage in document.passages:
        chosen, reward = _kept(rollouts.get(passage.id, ()), writing.keep)
        edits = [task.parse(rollout.text, passage) for rollout in chosen]
        mine = [sequence for edit in edits for sequence in edit.training_sequences]
        sequences += dict.fromkeys(mine) if mine else task.passage_sequences(passage)
        directives += [edit.applied for edit in edits]
        rewards += [] if reward is None else [reward]
        seeds += [rollout.seed for rollout in chosen]
        unwritten += not mine
    written = [one for passage in document.passages for one in rollouts.get(passage.id, ()) if one.repeat == 0]
    single = len(directives) == 1 == len(document.passages)
    return Lesson(
        document=document,
        training_sequences=tuple(sequences),
        directives=directives[0] if single else Directives(),
        seed=seeds[0] if single else None,
        edits=len(directives),
        rewards=tuple(rewards),
        unwritten=unwritten,
        sampled=len(written),
        rejected=Counter(one.reason for one in written if one.status == "rejected"),
    )


def _kept(rollouts: Sequence[Rollout], keep: int | None) -> tuple[list[Rollout], float | None]:
    """The first rollout of each edit that is trained on, and their mean reward."""
    first = {rollout.edit_index: rollout for rollout in reversed(rollouts)}
    for group in group_rollouts(rollouts):
        if chosen := best_of(group, k=len(group.outcomes) if keep is None else keep):
            return [first[outcome.edit_index] for outcome in chosen], fmean(one.reward or 0.0 for one in chosen)
    diverged = {rollout.edit_index for rollout in rollouts if rollout.status == "diverged"}
    sound = [one for one in first.values() if one.status == "ok" and one.edit_index not in diverged]
    usable = {rollout.text: rollout for rollout in reversed(sound)}
    return sorted(usable.values(), key=lambda rollout: rollout.edit_index)[:keep], None
