"""The grades of a unit: all of its answers are graded together, the baselines' and the adapters'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from seal_lightning.e_step.carriers import Attempt, Grades, Queries, Replies, Trial, Tried, UnitRun, queries_of
from seal_lightning.grading import Answer, Grader, Verdict, checked
from seal_lightning.progress.clock import Clock
from seal_lightning.types import Chooser


def grade_unit(
    grader: Grader, unit: UnitRun, baselines: Mapping[str, Replies], tried: Tried, *, policy: Chooser
) -> list[Grades]:
    """Verdicts on all answers of a unit, requested together.

    Args:
        grader: Scores answers.
        unit: The unit at work.
        baselines: What the policy answered without an adapter, by context id.
        tried: Attempts with their trials; what diverged is not graded, nor what was graded already.
        policy: The model for a grader that asks it.
    """
    answers: list[Answer] = []
    for context in unit.contexts:
        answers += _answers(queries_of(context), baselines[context.id].answers)
    for number, (attempt, trial) in enumerate(zip(tried.attempts, tried.trials, strict=True)):
        if trial and not trial.diverged:
            answers += [] if number in tried.graded else _answers(queries_of(attempt.context), trial.answers)
            answers += _answers(unit.others.get(attempt.context.id, ()), trial.retained)
    with unit.clock.phase("grading", len(answers)) as advance:
        given = iter(checked(grader, grader.verdicts(answers, policy=policy, on_done=advance)))
    before = {context.id: _take(given, len(context.queries)) for context in unit.contexts}
    known = {
        (context.id, query): verdict
        for context in unit.contexts
        for query, verdict in zip(context.queries, before[context.id], strict=True)
    }
    grades = []
    for number, (attempt, trial) in enumerate(zip(tried.attempts, tried.trials, strict=True)):
        own, asked = before[attempt.context.id], unit.others.get(attempt.context.id)
        if trial is None or trial.diverged:
            grades.append(Grades(own))
            continue
        after = tried.graded[number] if number in tried.graded else _take(given, len(trial.answers))
        if asked is None:
            grades.append(Grades(own, after))
            continue
        known_before = [known[context.id, query] for context, query in asked]
        grades.append(Grades(own, after, (known_before, _take(given, len(asked)))))
    return grades


def grade_own(
    grader: Grader, attempts: Sequence[Attempt], trials: Sequence[Trial | None], *, policy: Chooser, clock: Clock
) -> list[Sequence[Verdict]]:
    """Verdicts on the answers of some attempts to their own queries, before those of the whole unit."""
    answers = [
        _answers(queries_of(attempt.context), trial.answers) if trial and not trial.diverged else []
        for attempt, trial in zip(attempts, trials, strict=True)
    ]
    with clock.phase("grading", sum(map(len, answers))) as advance:
        given = iter(checked(grader, grader.verdicts(list(chain(*answers)), policy=policy, on_done=advance)))
    return [_take(given, len(some)) for some in answers]


def _answers(queries: Queries, texts: Sequence[str]) -> list[Answer]:
    return [Answer(query.question, query.golds, text) for (_, query), text in zip(queries, texts, strict=True)]


def _take(given: Iterator[Verdict], count: int) -> list[Verdict]:
    return [next(given) for _ in range(count)]
