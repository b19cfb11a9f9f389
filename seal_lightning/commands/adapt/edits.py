"""From passages to training sequences: self-edits are written, and the best of each passage become what is learnt.

Edits are rewarded as in the E-step of a fit: each trains an adapter, which is asked the passage's queries. If the data
has none for a passage, a model writes them; if none of those is usable, the first edits are taken as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Literal

from seal_lightning.commands.adapt.sharing import Sharing
from seal_lightning.data.documents import Document
from seal_lightning.e_step.filling import units_that_fill
from seal_lightning.e_step.own_queries import NO_OWN_QUERY, OwnQueryStep
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import in_shares
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Report, silent
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import Journal
from seal_lightning.results.averages import by_context
from seal_lightning.tasks import Task
from seal_lightning.types import Context, Directives, Rollout, TrainingSequence

Learn = Literal["edits", "passage"]


@dataclass(frozen=True, slots=True)
class EditChoice:
    """How many edits are written, and which of them are learnt.

    Attributes:
        learn: `edits`, or `passage` alone, for which nothing is written.
        e_step: Writes the edits, and rewards them by the passages' queries or by a rubric.
        own: Rewards them by queries that a model writes, if a passage has none; None with a rubric.
        keep: Edits of each passage to train on; None takes all, so none needs a reward.
    """

    learn: Learn
    e_step: EStep
    own: OwnQueryStep | None
    keep: int | None

    @property
    def plan(self) -> Plan:
        """Edits and repeats for each passage."""
        return self.e_step.plan

    @property
    def rewarded(self) -> bool:
        return self.learn == "edits" and self.keep is not None and self.keep < self.plan.edits


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learnt from one document.

    Attributes:
        document: The document.
        training_sequences: Sequences of all passages, without repetitions within a passage.
        directives: Directives of the edit, if there is a single one.
        seed: If there is a single edit, the seed of the adapter that earned its reward, so that it is made again.
        edits: Number of edits that the sequences come from.
        rewards: Mean reward of each passage's kept edits, where they have one.
        unwritten: Number of passages without a usable edit, which are learnt themselves.
        sampled: Number of edits that were written.
        rejected: How many of those were not usable, by reason.
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
    """The plan, with a race that leaves at least as many edits as are kept.

    Raises:
        ConfigError: The race's budget is too small for that.
    """
    if plan.racing is None or keep is None or keep >= plan.edits:  # there is nothing to choose
        return plan
    return replace(plan, racing=replace(plan.racing, keep=max(plan.racing.keep, keep)))


def write_edits(
    policy: Policy,
    work: Mapping[int, Sequence[Context]],
    choice: EditChoice,
    journal: Journal,
    *,
    done: int = 0,
    screen: Screen,
    sharing: Sharing[list[list[Rollout]]],
    check_stop: Callable[[], None],
) -> None:
    """Write the rollouts of units of passages into the journal.

    Args:
        policy: Writes, and is adapted to what is written where that is rewarded.
        work: The units that are not in the journal, by number.
        choice: How many edits are written, and whether they are rewarded.
        journal: Takes each unit as soon as it is finished.
        done: How many other units are in the journal, for the screen.
        screen: Shows progress.
        sharing: The processes that write.
        check_stop: Raises where a signal asked the command to stop.

    Raises:
        RetryableError: A grader or an endpoint failed; finished units are in the journal.
    """
    shares = _shares(policy, work, choice)

    def units_of(share: int) -> list[Sequence[Context]]:
        return [work[unit] for unit in shares[share]]

    def here(share: int) -> list[list[Rollout]]:
        with screen.phases() as report:
            return _units(policy, units_of(share), choice=choice, report=report)

    def name(share: int) -> str:
        return f"unit {', '.join(map(str, shares[share]))}"

    with screen.bar("self-edits, units of passages", done + len(work), done=done) as advance:
        elsewhere = partial(_units, choice=choice)
        for share, written in sharing.share(range(len(shares)), here, work=elsewhere, item=units_of, name=name):
            for unit, rollouts in zip(shares[share], written, strict=True):
                journal.append(unit, rollouts)
            advance(len(written))
    check_stop()


def _shares(policy: Policy, work: Mapping[int, Sequence[Context]], choice: EditChoice) -> list[Sequence[int]]:
    """The units, as many at a time as fill the policy's device."""
    if not work:
        return []
    return in_shares([*work], units_that_fill(choice.e_step, policy, [*work.values()], adapts=choice.rewarded))


def _units(
    policy: Policy, units: Sequence[Sequence[Context]], *, choice: EditChoice, report: Report = silent
) -> list[list[Rollout]]:
    """The rollouts of each unit."""

    def run(step: EStep, units: Sequence[Sequence[Context]]) -> Iterator[Rollout]:
        able = [unit for unit in units if unit]
        return chain.from_iterable(step.run_together(policy, able, round=0, report=report) if able else [])

    e_step, own, contexts = choice.e_step, choice.own, list(chain(*units))
    if not choice.rewarded:
        groups = by_context(e_step.write_edits(policy, contexts, round=0, report=report))
    elif own is None:
        groups = by_context(run(e_step, units))
    else:
        asks = choice.plan.queries == "data"
        known = [[context for context in unit if asks and context.queries] for unit in units]
        others = [[context for context in unit if not (asks and context.queries)] for unit in units]
        groups = by_context([*run(e_step, known), *run(own, others)])
        unasked = [c for c in contexts if all(rollout.reason == NO_OWN_QUERY for rollout in groups[c.id])]
        groups |= by_context(e_step.write_edits(policy, unasked, round=0, report=report) if unasked else [])
    return [[rollout for context in unit for rollout in groups[context.id]] for unit in units]


def lessons(task: Task, documents: Sequence[Document], rollouts: Sequence[Rollout], choice: EditChoice) -> list[Lesson]:
    """What is to be learnt from each document."""
    by_passage = by_context([rollout for rollout in rollouts if rollout.kind == "edit"])
    return [_lesson(task, document, by_passage, choice) for document in documents]


def kept_edits(passages: Sequence[Context], rollouts: Sequence[Rollout], choice: EditChoice) -> list[Rollout]:
    """The first rollout of each edit to train on."""
    by_passage = by_context(rollout for rollout in rollouts if rollout.kind == "edit")
    return [edit for passage in passages for edit in _kept(by_passage.get(passage.id, ()), choice.keep)[0]]


def _lesson(task: Task, document: Document, rollouts: Mapping[str, Sequence[Rollout]], choice: EditChoice) -> Lesson:
    sequences: list[TrainingSequence] = []
    learnt: list[tuple[Directives, int]] = []  # of each edit, with the seed of its adapter
    rewards: list[float] = []
    sampled: list[Rollout] = []
    unwritten = 0
    for passage in document.passages:
        known = rollouts.get(passage.id, ())
        chosen, reward = _kept(known, choice.keep)
        edits = [task.for_edit(rollout.edit_index).parse(rollout.text, passage) for rollout in chosen]
        written = [sequence for edit in edits for sequence in edit.training_sequences]
        sequences += dict.fromkeys(written) if written else task.passage_sequences(passage)
        learnt += [(edit.applied, rollout.seed) for edit, rollout in zip(edits, chosen, strict=True)]
        rewards += [] if reward is None else [reward]
        sampled += [rollout for rollout in known if rollout.repeat == 0]
        unwritten += not written
    directives, seed = learnt[0] if len(learnt) == 1 == len(document.passages) else (Directives(), None)
    return Lesson(
        document=document,
        training_sequences=tuple(sequences),
        directives=directives,
        seed=seed,
        edits=len(learnt),
        rewards=tuple(rewards),
        unwritten=unwritten,
        sampled=len(sampled),
        rejected=Counter(rollout.reason for rollout in sampled if rollout.status == "rejected"),
    )


def _kept(rollouts: Sequence[Rollout], keep: int | None) -> tuple[list[Rollout], float | None]:
    """The first rollout of each edit to train on, and their mean reward."""
    first = {rollout.edit_index: rollout for rollout in reversed(rollouts)}
    for group in group_rollouts(rollouts):
        if chosen := best_of(group, k=len(group.outcomes) if keep is None else keep):
            return [first[outcome.edit_index] for outcome in chosen], fmean(outcome.reward or 0.0 for outcome in chosen)
    diverged = {rollout.edit_index for rollout in rollouts if rollout.status == "diverged"}
    sound = [edit for edit in first.values() if edit.status == "ok" and edit.edit_index not in diverged]
    usable = {rollout.text: rollout for rollout in reversed(sound)}
    return sorted(usable.values(), key=lambda rollout: rollout.edit_index)[:keep], None
