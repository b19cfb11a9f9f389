"""From what was tried to rollouts: all answers of a unit are graded together, then every attempt gets its reward.

    attempts, trials -> verdicts -> rollouts                                         (arXiv 2506.10943, section 3.1)

With the proxy reward there are no trials: a rubric marks the edits themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from statistics import fmean
from types import MappingProxyType
from typing import Any

from seal_lightning.grading import Answer, Grader, Reward, Rubric, Verdict, checked
from seal_lightning.progress.clock import Clock
from seal_lightning.results.left_out import EDITS, PIECES, added
from seal_lightning.results.pairing import digest_of
from seal_lightning.types import Chooser, Context, Directives, Kind, Query, Rollout, SelfEdit, Usage

Queries = Sequence[tuple[Context, Query]]


@dataclass(frozen=True, slots=True)
class Replies:
    """What was answered to some queries, how many tokens that took together, and how many answers lost their end.

    `thoughts` counts the texts that thoughts were cut out of, `unfinished` those that ended within one. `finite` is off
    where the adapter's logits were not, so that the answers mean nothing.
    """

    answers: tuple[str, ...]
    tokens: int
    cut: int = 0
    thoughts: int = 0
    unfinished: int = 0
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """One self-edit and repeat on its way to becoming a rollout.

    `usage` is what writing the edit cost, `is_cut` says that it ends where the limit of tokens is.
    """

    context: Context
    kind: Kind
    edit_index: int
    repeat: int
    seed: int
    prompt: str
    edit: SelfEdit
    tokens: dict[str, int]
    usage: Usage = Usage()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """What the adapter of an attempt answered: its context's queries, and queries of other contexts.

    `left_out` counts what was missing from its training and its answers. `diverged` says what was not finite, where the
    adapter came to nothing: there are no answers then.
    """

    answers: tuple[str, ...]
    retained: tuple[str, ...]
    steps: int
    trained_tokens: int
    answer_tokens: int
    thoughts: int = 0
    unfinished: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    diverged: str = ""


@dataclass(frozen=True, slots=True)
class Grades:
    """The verdicts on an attempt.

    Attributes:
        before: On the baseline's answers.
        after: On the adapter's; empty where nothing was trained.
        others: On queries of other contexts, before and after; None where retention is not measured.
        rubric: On the edit itself, in place of all these.
    """

    before: Sequence[Verdict] = ()
    after: Sequence[Verdict] = ()
    others: tuple[Sequence[Verdict], Sequence[Verdict]] | None = None
    rubric: Verdict | None = None


def own_queries(context: Context) -> list[tuple[Context, Query]]:
    """The context's queries, each with the context that it is about."""
    return [(context, query) for query in context.queries]


def grade_trials(
    grader: Grader,
    attempts: Sequence[Attempt],
    trials: Sequence[Trial | None],
    *,
    baselines: Mapping[str, tuple[Context, Replies]],
    others: Mapping[str, Queries],
    policy: Chooser,
    clock: Clock,
    graded: Mapping[int, Sequence[Verdict]] = MappingProxyType({}),
) -> list[Grades]:
    """Verdicts on all answers of a unit, asked for together.

    Args:
        grader: Scores answers.
        attempts: Of the unit.
        trials: What came of each; None where nothing was trained. What diverged is not graded.
        baselines: By context id, the context and what the policy answered without an adapter.
        others: By context id, the queries of other contexts that its adapters were asked; empty without retention.
        policy: For a grader that asks it.
        clock: Of the unit.
        graded: What `grade_own` gave, by number of the attempt.
    """
    answers: list[Answer] = []
    for context, replies in baselines.values():
        answers += _answers(own_queries(context), replies.answers)
    for number, (attempt, trial) in enumerate(zip(attempts, trials, strict=True)):
        if trial and not trial.diverged:
            answers += [] if number in graded else _answers(own_queries(attempt.context), trial.answers)
            answers += _answers(others.get(attempt.context.id, ()), trial.retained)
    with clock.phase("grading", len(answers)) as advance:
        given = iter(checked(grader, grader.verdicts(answers, policy=policy, on_done=advance)))
    before = {name: _take(given, len(context.queries)) for name, (context, _) in baselines.items()}
    known = {
        (name, query): verdict
        for name, (context, _) in baselines.items()
        for query, verdict in zip(context.queries, before[name], strict=True)
    }
    grades = []
    for number, (attempt, trial) in enumerate(zip(attempts, trials, strict=True)):
        own, asked = before[attempt.context.id], others.get(attempt.context.id)
        if trial is None or trial.diverged:
            grades.append(Grades(own))
            continue
        after = graded[number] if number in graded else _take(given, len(trial.answers))
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
        _answers(own_queries(attempt.context), trial.answers) if trial and not trial.diverged else []
        for attempt, trial in zip(attempts, trials, strict=True)
    ]
    with clock.phase("grading", sum(map(len, answers))) as advance:
        given = iter(checked(grader, grader.verdicts(list(chain(*answers)), policy=policy, on_done=advance)))
    return [_take(given, len(mine)) for mine in answers]


def mark_edits(rubric: Rubric, attempts: Sequence[Attempt], *, policy: Chooser, clock: Clock) -> list[Grades]:
    """The rubric's verdicts on usable edits; nothing is said of the others."""
    usable = [attempt for attempt in attempts if attempt.edit.status == "ok"]
    with clock.phase("rubric", len(usable)) as advance:
        edits = [(attempt.context, attempt.edit.text) for attempt in usable]
        given = iter(checked(rubric, rubric.verdicts(edits, policy=policy, on_done=advance)))
    return [Grades(rubric=next(given) if attempt.edit.status == "ok" else None) for attempt in attempts]


def to_rollout(
    attempt: Attempt,
    trial: Trial | None,
    grades: Grades,
    *,
    baseline_answers: tuple[str, ...],
    round: int,
    seconds: Mapping[str, float],
    usage: Mapping[str, Usage],
    dropped: str = "",
    thoughts: Mapping[str, int] = MappingProxyType({}),
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> Rollout:
    """Everything that is known about an attempt; its reward comes with `rewarded`.

    Args:
        attempt: The self-edit and repeat.
        trial: What came of it.
        grades: The verdicts.
        baseline_answers: Without an adapter.
        round: Counted from 0.
        seconds: By phase.
        usage: What endpoints charged, by purpose.
        dropped: Why a race gave the edit up, where it did.
        thoughts: As `count_thoughts` says.
        left_out: What was missing from the context's queries and baseline, at its first attempt.
    """
    queries = attempt.context.queries if baseline_answers else ()
    baseline = _mean(grades.before)
    diverged = trial.diverged if trial else ""
    score = baseline  # where nothing was trained, or to no use, the policy answers as before
    if grades.rubric is not None:
        score = grades.rubric.score
    elif trial and not diverged:
        score = _mean(grades.after)
    counts = {"trained": trial.trained_tokens, "answers": trial.answer_tokens} if trial else {}
    return Rollout(
        round=round,
        context_id=attempt.context.id,
        edit_index=attempt.edit_index,
        repeat=attempt.repeat,
        seed=attempt.seed,
        prompt=attempt.prompt,
        text=attempt.edit.text,
        status="diverged" if diverged else attempt.edit.status,
        reason=diverged or attempt.edit.reason,
        kind=attempt.kind,
        asked=attempt.edit.asked,
        applied=_given(attempt.edit.applied),
        questions=tuple(query.question for query in queries),
        golds=tuple(query.golds for query in queries),
        baseline_answers=baseline_answers,
        answers=trial.answers if trial else (),
        baseline_scores=tuple(verdict.score for verdict in grades.before),
        scores=tuple(verdict.score for verdict in grades.after),
        baseline=baseline,
        score=score,
        gain=0.0 if grades.rubric else score - baseline,  # a rubric has no baseline
        dropped=dropped,
        retention=_mean(grades.others[1]) - _mean(grades.others[0]) if grades.others else None,
        thoughts=dict(thoughts),
        steps=trial.steps if trial else 0,
        tokens={**attempt.tokens, **counts},
        seconds=seconds,
        usage={purpose: used.as_dict() for purpose, used in usage.items() if used.as_dict()},
        left_out=added(
            [left_out, {EDITS: attempt.is_cut, PIECES: attempt.edit.left_out}, trial.left_out if trial else {}]
        ),
        title=attempt.context.title.strip(),
        passage_digest=digest_of(attempt.context.passage),
    )


def count_thoughts(attempt: Attempt, trial: Trial | None, *, baseline: Replies | None) -> dict[str, int]:
    """The texts that thoughts were cut out of, and the answers that ended within one; zeros are left out.

    Args:
        attempt: The self-edit and repeat; an edit counts at its first repeat.
        trial: What its adapter answered.
        baseline: What the policy answered without it, where that is to be counted here.
    """
    answered = [found for found in (trial, baseline) if found is not None]
    counts = {
        "edit": int(bool(attempt.edit.thoughts) and attempt.repeat == 0),
        "answers": sum(found.thoughts for found in answered),
        "unfinished": sum(found.unfinished for found in answered),
    }
    return {name: count for name, count in counts.items() if count}


def rewarded(rollout: Rollout, grades: Grades, reward: Reward) -> Rollout:
    """The rollout with its reward and what it is made of, where it was scored and not dropped."""
    if rollout.dropped or (not grades.after and grades.rubric is None):
        return rollout
    measured = reward.measure(rollout)
    marks = {f"rubric {name}": mark for name, mark in grades.rubric.reasons.items()} if grades.rubric else {}
    return replace(rollout, reward=reward.total(measured), terms={**measured, **marks})


def usage_by_purpose(attempt: Attempt, grades: Grades, *, first: bool, questions: Usage = Usage()) -> dict[str, Usage]:
    """What endpoints charged for an attempt; what was spent on its context counts for the `first` one alone."""
    verdicts = [*grades.after, *(grades.others[1] if grades.others else ()), *(grades.before if first else ())]
    return {
        "sampling": attempt.usage,
        "grading": sum((verdict.usage for verdict in verdicts), Usage()),
        "rubric": grades.rubric.usage if grades.rubric else Usage(),
        "questions": questions if first else Usage(),
    }


def _answers(queries: Queries, texts: Sequence[str]) -> list[Answer]:
    return [Answer(query.question, query.golds, text) for (_, query), text in zip(queries, texts, strict=True)]


def _take(given: Iterator[Verdict], count: int) -> list[Verdict]:
    return [next(given) for _ in range(count)]


def _mean(verdicts: Sequence[Verdict]) -> float:
    return fmean(verdict.score for verdict in verdicts) if verdicts else 0.0


def _given(directives: Directives) -> dict[str, Any]:
    return {name: value for name, value in asdict(directives).items() if value is not None}
