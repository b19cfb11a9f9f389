"""Trials: an adapter is trained on each self-edit and answers its context's queries (arXiv 2506.10943, section 3.1).

`Trials` is the seam where compute is spent: `AllTrials` tries every repeat of every edit, `Race` only those that decide
by the rule in `race_rule.py`. Of a race, only what was trained has a trial in the end: an edit that was dropped keeps
its answers for the journal but gets no reward. An edit of which an adapter diverged is out of the race; that is its
result, and it does not count as dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, TypeVar

from seal_lightning.e_step.carriers import Attempt, Replies, Trial, Tried, UnitRun, queries_of
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Heat, Racing, Scores, Training, race, run_races
from seal_lightning.e_step.verdicts import grade_own
from seal_lightning.errors import NoMemoryError
from seal_lightning.grading import Grader, Verdict
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.results.left_out import ANSWERS, DIVERGED, LONGEST, SKIPPED, TRUNCATED
from seal_lightning.sampling import PolicyWriter

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


class TrialParts(Protocol):
    """The parts of an E-step that trials need."""

    @property
    def plan(self) -> Plan: ...

    @property
    def inner_loop(self) -> InnerLoop: ...

    @property
    def grader(self) -> Grader: ...

    @property
    def ask(self) -> Callable[..., list[Replies]]: ...


class Trials(Protocol):
    """How the compute for trials is spent."""

    def run(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> Tried:
        """Try the attempts that are worth it.

        Args:
            parts: The E-step.
            unit: The unit at work.
            attempts: All of the unit; those whose edit was rejected cannot be tried.
        """
        ...


class AllTrials:
    """Tries every attempt whose edit is usable."""

    def run(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> Tried:
        """Train all adapters together and let them answer; in halves where the memory does not suffice."""
        trials: dict[int, Trial] = {}
        usable = [number for number, attempt in enumerate(attempts) if attempt.edit.status == "ok"]
        waiting = in_shares(usable, parts.inner_loop.results(unit.policy.model)) if usable else []
        while waiting:
            part = waiting.pop(0)
            some, trained = [attempts[number] for number in part], None
            jobs = [attempt.job for attempt in some]
            try:
                with unit.clock.phase("inner loop", parts.inner_loop.total_steps(jobs)) as advance:
                    trained = parts.inner_loop.adapt(unit.policy, jobs, on_step=advance)
                trials |= zip(part, answered(parts, unit, some, trained), strict=True)
            except NoMemoryError:
                if len(part) == 1:
                    raise
                half = len(part) // 2
                log.warning("out of memory: the adapters of %d and %d self-edits by turns", half, len(part) - half)
                waiting = [part[:half], part[half:], *waiting]
        _tell_diverged(list(trials.values()))
        return Tried(attempts, [trials.get(number) for number in range(len(attempts))])


def in_shares(items: Sequence[_Item], most: int) -> list[Sequence[_Item]]:
    """As few shares as have at most so many items each, of about the same size."""
    size = -(-len(items) // -(-len(items) // most))
    return [items[start : start + size] for start in range(0, len(items), size)]


def answered(parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt], trained: TrainedBank) -> list[Trial]:
    """Let the adapters that came out finite answer."""
    sound = [job for job, stats in enumerate(trained.stats) if not stats.diverged]
    contexts = [attempts[job].context for job in sound]
    queries = [[*queries_of(context), *unit.others.get(context.id, ())] for context in contexts]
    replies = parts.ask(unit.policy, queries, jobs=sound, trained=trained, clock=unit.clock)
    by_job = dict(zip(sound, replies, strict=True))
    trials = []
    for job, (attempt, stats) in enumerate(zip(attempts, trained.stats, strict=True)):
        longest = parts.inner_loop.longest(unit.policy, attempt.job) if stats.truncated else 0
        trials.append(_trial(attempt, stats, by_job.get(job), longest=longest))
    return trials


def _trial(attempt: Attempt, stats: JobStats, replies: Replies | None, *, longest: int) -> Trial:
    missing = {TRUNCATED: stats.truncated, SKIPPED: stats.skipped, LONGEST: longest}
    if replies is None or not replies.finite:
        return Trial(
            (),
            (),
            stats.steps,
            stats.trained_tokens,
            replies.tokens if replies else 0,
            teacher_tokens=stats.teacher_tokens,
            left_out={**missing, DIVERGED: 1},
            diverged=stats.diverged or f"the logits of its answers are not finite after step {stats.steps}",
            ignored=stats.ignored,
        )
    own = len(attempt.context.queries)
    return Trial(
        replies.answers[:own],
        replies.answers[own:],
        stats.steps,
        stats.trained_tokens,
        replies.tokens,
        teacher_tokens=stats.teacher_tokens,
        thoughts=replies.thoughts,
        unfinished=replies.unfinished,
        left_out={**missing, ANSWERS: replies.cut},
        ignored=stats.ignored,
    )


def _tell_diverged(trials: Sequence[Trial]) -> None:
    if diverged := [trial.diverged for trial in trials if trial.diverged]:
        log.warning(
            "%d of %d adapters diverged and are thrown away (the first: %s): lower model.inner_loop.learning_rate, or "
            "the bounds of the directives",
            len(diverged),
            len(trials),
            diverged[0],
        )


Field = list[list[int]]  # of a context: the numbers of each usable edit's attempts, by repeat


@dataclass(frozen=True, slots=True)
class Race:
    """Trains only what decides which edits are kept, by the rules of `racing`."""

    racing: Racing

    def run(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> Tried:
        """Race the usable edits of each unit; what they are compared with (other kinds) is trained in full."""
        course = _Course(parts, unit, attempts)
        course.train([number for number, attempt in enumerate(attempts) if attempt.kind != "edit"])
        fields = _fields(unit, attempts)

        def train(chosen: Mapping[int, Sequence[Training]]) -> dict[int, list[list[float] | None]]:
            numbers = [fields[place][context][edit][n] for place, some in chosen.items() for context, edit, n in some]
            scores = iter(course.race(numbers))
            return {place: [next(scores) for _ in some] for place, some in chosen.items()}

        heats = run_races([self._race(course, some, repeats=parts.plan.repeats) for some in fields], train)
        for heat, edits in zip(chain(*heats), chain(*fields), strict=True):
            course.close(heat, edits, survivors=heat.survivors(self.racing.keep))
        return course.tried()

    def _race(
        self, course: _Course, fields: Sequence[Field], *, repeats: int
    ) -> Generator[list[Training], Scores, list[Heat]]:
        """The race of one unit."""
        costs = [[course.cost(numbers[0]) for numbers in edits] for edits in fields]
        queries = [len(course.attempts[edits[0][0]].context.queries) for edits in fields]
        return race(self.racing, costs, queries, repeats=repeats)


def _fields(unit: UnitRun, attempts: Sequence[Attempt]) -> list[list[Field]]:
    """By unit, those of its contexts that have a usable edit."""
    by_edit: dict[str, dict[int, list[int]]] = {}
    for number, attempt in enumerate(attempts):
        if attempt.kind == "edit" and attempt.edit.status == "ok":
            by_edit.setdefault(attempt.context.id, {}).setdefault(attempt.edit_index, []).append(number)
    able = [[context.id for context in contexts if context.id in by_edit] for contexts in unit.units]
    return [[list(by_edit[id].values()) for id in ids] for ids in able]


class _Course:
    """What is known of a unit's attempts while the race goes on."""

    def __init__(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> None:
        self.parts, self.unit, self.attempts = parts, unit, attempts
        self.trials: dict[int, Trial | None] = {}
        self.graded: dict[int, Sequence[Verdict]] = {}
        self.dropped: dict[int, str] = {}
        self.saved: dict[int, int] = {}  # tokens, at an edit's first attempt

    def cost(self, number: int) -> float:
        """Training tokens that an attempt's adapter takes."""
        job = self.attempts[number].job
        return float(max(1, self.parts.inner_loop.trained_tokens(self.unit.policy, job)))

    def train(self, numbers: Sequence[int]) -> list[Trial | None]:
        trials = AllTrials().run(self.parts, self.unit, [self.attempts[number] for number in numbers]).trials
        self.trials |= zip(numbers, trials, strict=True)
        return list(trials)

    def race(self, numbers: Sequence[int]) -> list[list[float] | None]:
        """Train some attempts; returns the scores of their answers, None for what diverged."""
        trials, some = self.train(numbers), [self.attempts[number] for number in numbers]
        writer = PolicyWriter(self.unit.policy)
        verdicts = grade_own(self.parts.grader, some, trials, policy=writer, clock=self.unit.clock)
        scores: list[list[float] | None] = []
        for number, trial, given in zip(numbers, trials, verdicts, strict=True):
            diverged = trial is not None and bool(trial.diverged)
            scores.append(None if diverged else [verdict.score for verdict in given])
            if not diverged:
                self.graded[number] = given
        return scores

    def close(self, heat: Heat, edits: Field, *, survivors: Sequence[int]) -> None:
        """Write down what the race of a context has saved and dropped."""
        for edit, numbers in enumerate(edits):
            trained = int(heat.seen[edit]) + (edit in heat.out)
            self.saved[numbers[0]] = int((heat.repeats - trained) * heat.costs[edit])
            if edit not in survivors and edit not in heat.out:
                self.dropped |= dict.fromkeys(numbers, f"racing: {trained} of {heat.repeats} repeats trained")

    def tried(self) -> Tried:
        """The attempts that were tried, and the first of each edit that was not."""
        made = [n for n, attempt in enumerate(self.attempts) if n in self.trials or attempt.repeat == 0]
        place = {number: at for at, number in enumerate(made)}
        saved = [{"saved": self.saved[number]} if number in self.saved else {} for number in made]
        some = [self.attempts[number] for number in made]
        return Tried(
            attempts=[replace(one, tokens={**one.tokens, **more}) for one, more in zip(some, saved, strict=True)],
            trials=[self.trials.get(number) for number in made],
            graded={place[number]: verdicts for number, verdicts in self.graded.items()},
            dropped={place[number]: reason for number, reason in self.dropped.items() if number in place},
        )
