"""Trials: an adapter is trained on each self-edit and answers its context's queries (arXiv 2506.10943, section 3.1).

`Trials` is the seam where compute is spent: `AllTrials` tries every repeat of every edit, `race.Race` only those that
decide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from seal_lightning.e_step.carriers import Attempt, Replies, Trial, Tried, UnitRun, queries_of
from seal_lightning.e_step.plan import Plan
from seal_lightning.errors import NoMemoryError
from seal_lightning.grading import Grader
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.results.left_out import ANSWERS, DIVERGED, LONGEST, SKIPPED, TRUNCATED

log = logging.getLogger(__name__)


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
        waiting = [usable] if usable else []
        while waiting:
            part = waiting.pop(0)
            some, trained = [attempts[number] for number in part], None
            jobs = [attempt.job for attempt in some]
            try:
                with unit.clock.phase("inner loop", parts.inner_loop.total_steps(jobs)) as advance:
                    trained = parts.inner_loop.adapt(unit.policy, jobs, on_step=advance)
                trials |= zip(part, _answered(parts, unit, some, trained), strict=True)
            except NoMemoryError:
                if len(part) == 1:
                    raise
                half = len(part) // 2
                log.warning("out of memory: the adapters of %d and %d self-edits by turns", half, len(part) - half)
                waiting = [part[:half], part[half:], *waiting]
        _tell_diverged(list(trials.values()))
        return Tried(attempts, [trials.get(number) for number in range(len(attempts))])


def _answered(parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt], trained: TrainedBank) -> list[Trial]:
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
            left_out={**missing, DIVERGED: 1},
            diverged=stats.diverged or f"the logits of its answers are not finite after step {stats.steps}",
        )
    own = len(attempt.context.queries)
    return Trial(
        replies.answers[:own],
        replies.answers[own:],
        stats.steps,
        stats.trained_tokens,
        replies.tokens,
        thoughts=replies.thoughts,
        unfinished=replies.unfinished,
        left_out={**missing, ANSWERS: replies.cut},
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
