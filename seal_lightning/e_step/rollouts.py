"""From what was tried and graded to rollouts, one for each attempt, with its reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from types import MappingProxyType

from seal_lightning.e_step.carriers import Attempt, Grades, Replies, Trial, Tried, UnitRun
from seal_lightning.grading import Reward, Verdict
from seal_lightning.results.diversity import with_similarities
from seal_lightning.results.left_out import ANSWERS, EDITS, PIECES, added
from seal_lightning.results.pairing import digest_of
from seal_lightning.results.usage import share_seconds
from seal_lightning.types import Rollout, Usage

NOTHING: Mapping[str, Replies] = MappingProxyType({})


def rollouts_of(
    unit: UnitRun,
    tried: Tried,
    grades: Sequence[Grades],
    reward: Reward,
    *,
    baselines: Mapping[str, Replies] = NOTHING,
) -> list[Rollout]:
    """A rollout for each attempt; what was spent on its context alone stands at the context's first one.

    Args:
        unit: The unit at work.
        tried: Attempts with their trials.
        grades: The verdicts on each attempt.
        reward: Turns a scored rollout into its reward.
        baselines: What the policy answered without an adapter, by context id; empty where it was not asked.
    """
    rollouts: list[Rollout] = []
    for number, (attempt, trial, graded) in enumerate(zip(tried.attempts, tried.trials, grades, strict=True)):
        first = not rollouts or rollouts[-1].context_id != attempt.context.id
        baseline = baselines.get(attempt.context.id)
        rollout = _rollout(unit, attempt, trial, graded, baseline=baseline, first=first)
        rollouts.append(replace(rollout, dropped=tried.dropped.get(number, "")))
    compared = zip(with_similarities(rollouts), grades, strict=True)
    return share_seconds([_rewarded(one, graded, reward) for one, graded in compared], unit.clock.seconds)


def _rollout(
    unit: UnitRun, attempt: Attempt, trial: Trial | None, grades: Grades, *, baseline: Replies | None, first: bool
) -> Rollout:
    """Everything that is known about an attempt alone; the baseline's cost stands at its context's `first` one."""
    queries = attempt.context.queries if baseline else ()
    score_before = _mean(grades.before)
    diverged = trial.diverged if trial else ""
    score = score_before  # where nothing was trained, or to no use, the policy answers as before
    if grades.rubric is not None:
        score = grades.rubric.score
    elif trial and not diverged:
        score = _mean(grades.after)
    counts = {"trained": trial.trained_tokens, "answers": trial.answer_tokens} if trial else {}
    if trial and trial.teacher_tokens:
        counts["teacher"] = trial.teacher_tokens
    asked_here = baseline if first else None
    of_baseline = {ANSWERS: asked_here.cut} if asked_here else {}
    of_edit = {EDITS: attempt.is_cut, PIECES: attempt.edit.left_out}
    return Rollout(
        round=unit.round,
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
        applied=_applied(attempt, trial),
        questions=tuple(query.question for query in queries),
        golds=tuple(query.golds for query in queries),
        baseline_answers=baseline.answers if baseline else (),
        answers=trial.answers if trial else (),
        baseline_scores=tuple(verdict.score for verdict in grades.before),
        scores=tuple(verdict.score for verdict in grades.after),
        baseline=score_before,
        score=score,
        gain=0.0 if grades.rubric else score - score_before,  # a rubric has no baseline
        retention=_mean(grades.others[1]) - _mean(grades.others[0]) if grades.others else None,
        thoughts=_count_thoughts(attempt, trial, asked_here),
        steps=trial.steps if trial else 0,
        tokens={**attempt.tokens, **counts},
        usage=_usage(attempt, grades, first=first),
        left_out=added([of_baseline, of_edit, trial.left_out if trial else {}]),
        title=attempt.context.title.strip(),
        passage_digest=digest_of(attempt.context.passage),
        edit_kind=attempt.edit_kind,
    )


def _applied(attempt: Attempt, trial: Trial | None) -> dict[str, object]:
    """The directives that the training followed."""
    ignored = trial.ignored if trial else ()
    given = asdict(attempt.edit.applied)
    return {name: value for name, value in given.items() if value is not None and name not in ignored}


def _rewarded(rollout: Rollout, grades: Grades, reward: Reward) -> Rollout:
    """The rollout with its reward and the reward's terms, where it was scored and not dropped."""
    if rollout.dropped or (not grades.after and grades.rubric is None):
        return rollout
    measured = reward.measure(rollout)
    marks = {f"rubric {name}": mark for name, mark in grades.rubric.reasons.items()} if grades.rubric else {}
    return replace(rollout, reward=reward.total(measured), terms={**measured, **marks})


def _count_thoughts(attempt: Attempt, trial: Trial | None, baseline: Replies | None) -> dict[str, int]:
    """The texts from which thoughts were removed, and the answers that ended within one; zeros are left out.

    An edit counts at its first repeat, the baseline where it is given.
    """
    answered = [replies for replies in (trial, baseline) if replies is not None]
    counts = {
        "edit": int(bool(attempt.edit.thoughts) and attempt.repeat == 0),
        "answers": sum(replies.thoughts for replies in answered),
        "unfinished": sum(replies.unfinished for replies in answered),
    }
    return {name: count for name, count in counts.items() if count}


def _usage(attempt: Attempt, grades: Grades, *, first: bool) -> dict[str, dict[str, float]]:
    """What endpoints charged for an attempt, by purpose."""
    verdicts = [*grades.after, *(grades.others[1] if grades.others else ()), *(grades.before if first else ())]
    by_purpose = {
        "sampling": attempt.usage,
        "grading": sum((verdict.usage for verdict in verdicts), Usage()),
        "rubric": grades.rubric.usage if grades.rubric else Usage(),
    }
    return {purpose: counts for purpose, usage in by_purpose.items() if (counts := usage.as_dict())}


def _mean(verdicts: Sequence[Verdict]) -> float:
    return fmean(verdict.score for verdict in verdicts) if verdicts else 0.0
