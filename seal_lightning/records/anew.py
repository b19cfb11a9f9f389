"""Recorded rollouts graded, rewarded and raced anew: the work of `seal replay`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from seal_lightning.e_step.race_rule import Racing, Training, race, run_races
from seal_lightning.errors import DataError
from seal_lightning.grading import Answer, Grader, Reward, Verdict, agreement, checked
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.entries import Entry
from seal_lightning.results.averages import Bounds, by_context, by_edit, interval
from seal_lightning.results.diversity import with_similarities
from seal_lightning.text.thoughts import cut_thoughts
from seal_lightning.types import Rollout, Usage


@dataclass(frozen=True, slots=True)
class Regrading:
    """How a grader compares with the scores that it replaces, over distinct answers.

    Attributes:
        answers: Number of distinct (question, accepted answers, answer).
        agreement: Share on which both say right, or both wrong.
        kappa: Cohen's kappa; 0 is what chance gives, None where both always say the same.
        usage: What the grader asked endpoints for.
    """

    answers: int
    agreement: float
    kappa: float | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class RaceFigures:
    """What a race over recorded repeats would have kept and spent, beside the full E-step.

    Attributes:
        name: The entry's name.
        kept: Number of edits that the full E-step keeps.
        same: How many of them the race keeps too.
        interval: The 95 % interval of that share, over contexts.
        as_good: How many kept by the race score at least as the last one that the full E-step keeps.
        trainings: Number of trainings of the race.
        of: Number of trainings of the full E-step.
        spent: Share of the full E-step's trained tokens, or of its trainings where tokens are not recorded.
    """

    name: str
    kept: int
    same: int
    interval: Bounds
    as_good: int
    trainings: int
    of: int
    spent: float


def regrade(
    entries: Sequence[Entry], grader: Grader, *, on_done: Callable[[int], None] = lambda count: None
) -> tuple[list[Entry], Regrading]:
    """Grade every answer anew, each distinct one once; scores, baselines and gains follow, rewards do not.

    Raises:
        DataError: There are no answers.
        GradingError: One could not be graded.
    """
    former: dict[Answer, list[float]] = {}
    for rollout in (rollout for entry in entries for rollout in entry.rollouts):
        before, after = _answers(rollout, rollout.baseline_answers), _answers(rollout, rollout.answers)
        for answer, score in zip(before + after, rollout.baseline_scores + rollout.scores, strict=True):
            former.setdefault(answer, []).append(score)
    if not former:
        raise DataError(f"{entries[0].source}: expected answers to grade, got none: leave --grader out")
    verdicts = dict(zip(former, checked(grader, grader.verdicts(list(former), on_done=on_done)), strict=True))
    regraded = [
        replace(entry, rollouts=tuple(_rescored(rollout, verdicts) for rollout in entry.rollouts)) for entry in entries
    ]
    scores = [verdict.score for verdict in verdicts.values()]
    judged = [fmean(scores) >= agreement.RIGHT for scores in former.values()]
    measured = agreement.compare(scores, [score >= agreement.RIGHT for score in scores], judged)
    usage = sum((verdict.usage for verdict in verdicts.values()), Usage())
    return regraded, Regrading(measured.n, measured.agreement, measured.kappa, usage)


def _answers(rollout: Rollout, texts: Sequence[str]) -> list[Answer]:
    if not texts:
        return []
    said = [cut_thoughts(text).text for text in texts]  # other programs' files may hold thoughts
    return [Answer(*asked) for asked in zip(rollout.questions, rollout.golds, said, strict=True)]


def _rescored(rollout: Rollout, verdicts: Mapping[Answer, Verdict]) -> Rollout:
    before = tuple(verdicts[answer].score for answer in _answers(rollout, rollout.baseline_answers))
    after = tuple(verdicts[answer].score for answer in _answers(rollout, rollout.answers))
    if not before:
        return rollout
    baseline = fmean(before)
    score = fmean(after) if after else baseline  # where nothing was trained, the policy answers as before
    return replace(rollout, baseline_scores=before, scores=after, baseline=baseline, score=score, gain=score - baseline)


def reward_anew(entry: Entry, reward: Reward) -> Entry:
    """The entry with another reward, and its terms, for every rollout that has one.

    Raises:
        DataError: A rollout lacks what a term is made of.
        GradingError: A term is not a finite number.
    """
    rollouts = []
    for rollout in with_similarities(entry.rollouts):  # the files of others have none
        if rollout.reward is not None:
            terms = reward.measure(rollout)
            rollout = replace(rollout, terms=terms, reward=reward.total(terms))
        rollouts.append(rollout)
    return replace(entry, rollouts=tuple(rollouts))


def race_anew(entry: Entry, racing: Racing) -> RaceFigures:
    """Race over the recorded repeats as an E-step would have; it sees a repeat when it would have trained it.

    Both keep edits by their scores, whatever the rewards are.

    Raises:
        DataError: There are no repeats to race for, or not all of them are there.
    """
    scored = [r for r in entry.rollouts if r.kind == "edit" and r.reward is not None and r.scores]
    contexts = [by_edit(group) for group in by_context(scored).values()]
    repeats, trainings = _repeats(entry, contexts), 0

    def train(chosen: Mapping[int, Sequence[Training]]) -> dict[int, list[tuple[float, ...]]]:
        nonlocal trainings
        trainings += len(chosen[0])
        return {0: [contexts[context][edit][repeat].scores for context, edit, repeat in chosen[0]]}

    costs = [[fmean(r.tokens.get("trained", 1) for r in edit) for edit in edits] for edits in contexts]
    queries = [len(edits[0][0].scores) for edits in contexts]
    (heats,) = run_races([race(racing, costs, queries, repeats=repeats)], train)
    groups = group_rollouts([replace(rollout, reward=rollout.score) for rollout in scored])
    full = [[outcome.edit_index for outcome in best_of(group, k=racing.keep)] for group in groups]
    same, as_good = [], 0
    for heat, edits, best in zip(heats, contexts, full, strict=True):
        chosen = [edits[edit][0].edit_index for edit in heat.survivors(racing.keep)]
        same.append(len({*chosen} & {*best}))
        score = {edit[0].edit_index: round(fmean(rollout.score for rollout in edit), 9) for edit in edits}
        as_good += sum(score[index] >= min(score[kept] for kept in best) for index in chosen)
    return RaceFigures(
        name=entry.name,
        kept=sum(map(len, full)),
        same=sum(same),
        interval=interval([count / len(best) for count, best in zip(same, full, strict=True)]),
        as_good=as_good,
        trainings=trainings,
        of=repeats * sum(map(len, costs)),
        spent=sum(float(heat.seen @ heat.costs) for heat in heats) / (repeats * sum(map(sum, costs))),
    )


def _repeats(entry: Entry, contexts: Sequence[Sequence[Sequence[Rollout]]]) -> int:
    """How many repeats each edit has."""
    counts = {len(edit) for edits in contexts for edit in edits}
    raced = any(rollout.dropped for rollout in entry.rollouts)
    if len(counts) != 1 or counts == {1} or raced:
        got = "a race" if raced else " or ".join(map(str, sorted(counts))) or "none"
        raise DataError(
            f"{entry.name}: expected the same 2 or more repeats of every edit, got {got}: race over a run without "
            "racing"
        )
    return counts.pop()
