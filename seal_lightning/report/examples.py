"""Self-edits to look at side by side, with the queries that they won and lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from seal_lightning.report.read import Run
from seal_lightning.report.rounds import RoundFigures
from seal_lightning.results.accuracy import means_of
from seal_lightning.results.averages import by_edit
from seal_lightning.types import Rollout

Change = Literal["won", "lost", "right", "wrong"]
PAIRS = 3  # pairs of a best and a worst edit
RIGHT = 0.5  # score from which an answer counts as right where it is marked as such


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query, and what an adapter changed about its answer."""

    question: str
    gold: str
    before: str
    after: str
    change: Change


@dataclass(frozen=True, slots=True)
class ShownEdit:
    """A self-edit and what came of it. `repeats` were trained; the answers are the first one's, the scores all's."""

    label: str
    context_id: str
    title: str
    edit_index: int
    prompt: str
    text: str
    reward: float | None
    baseline: float
    score: float
    repeats: int
    kept: bool
    queries: tuple[QueryChange, ...]


Pair = tuple[ShownEdit, ShownEdit]  # to look at side by side


def best_and_worst(
    found: RoundFigures, rollouts: Sequence[Rollout], titles: Mapping[str, str], *, count: int = PAIRS
) -> list[Pair]:
    """The best and the worst usable edit of the contexts in which they differ most in reward.

    Where contexts have one edit each, of one context the best and of another the worst.
    """
    usable = [[outcome for outcome in group.outcomes if outcome.reward is not None] for group in found.groups]
    ranked = [sorted(group, key=lambda one: (-(one.reward or 0.0), one.edit_index)) for group in usable if group]
    several = [(group[0], group[-1]) for group in ranked if len(group) > 1]
    if not several:
        single = sorted((group[0] for group in ranked), key=lambda one: -(one.reward or 0.0))
        several = [(single[at], single[-1 - at]) for at in range(len(single) // 2)]
    several.sort(key=lambda pair: (pair[1].reward or 0.0) - (pair[0].reward or 0.0))
    repeats = {(edit[0].context_id, edit[0].edit_index): edit for edit in by_edit(rollouts) if edit[0].kind == "edit"}
    kept = {(outcome.context_id, outcome.edit_index) for outcome in found.kept or ()}
    return [
        (
            _example("best", repeats[best.context_id, best.edit_index], kept, titles),
            _example("worst", repeats[worst.context_id, worst.edit_index], kept, titles),
        )
        for best, worst in several[:count]
    ]


def _example(
    label: str, repeats: Sequence[Rollout], kept: set[tuple[str, int]], titles: Mapping[str, str]
) -> ShownEdit:
    first = repeats[0]
    rewards = [rollout.reward for rollout in repeats if rollout.reward is not None]
    return ShownEdit(
        label=label,
        context_id=first.context_id,
        title=titles[first.context_id],
        edit_index=first.edit_index,
        prompt=first.prompt,
        text=first.text,
        reward=fmean(rewards) if rewards else None,
        baseline=fmean(rollout.baseline for rollout in repeats),
        score=fmean(rollout.score for rollout in repeats),
        repeats=len(repeats),
        kept=(first.context_id, first.edit_index) in kept,
        queries=changes_of(first),
    )


def changes_of(rollout: Rollout) -> tuple[QueryChange, ...]:
    """What became of each query; none where nothing was answered."""
    if not rollout.answers:
        return ()
    before = rollout.baseline_answers or ("",) * len(rollout.answers)
    scores = rollout.baseline_scores or (0.0,) * len(rollout.answers)
    rows = zip(rollout.questions, rollout.golds, before, rollout.answers, scores, rollout.scores, strict=True)
    return tuple(
        QueryChange(question, " | ".join(golds), earlier, later, _change(was, now))
        for question, golds, earlier, later, was, now in rows
    )


def _change(was: float, now: float) -> Change:
    if now >= RIGHT:
        return "right" if was >= RIGHT else "won"
    return "lost" if was >= RIGHT else "wrong"


def typical_of(run: Run, titles: Mapping[str, str]) -> Pair | None:
    """One held-out context before training and after the last round."""
    if len(run.validations) < 2:
        return None
    first, last = run.validations[min(run.validations)], run.validations[max(run.validations)]
    if not means_of(first, "edits").keys() & means_of(last, "edits").keys():
        return None
    before, after = typical_pair(first, last)
    label = f"after round {max(run.validations)}"
    return _example("before training", [before], set(), titles), _example(label, [after], set(), titles)


def typical_pair(before: Sequence[Rollout], after: Sequence[Rollout]) -> tuple[Rollout, Rollout]:
    """The first self-edits of one context in two validations: of the one whose score rose by the median amount."""
    first, last = means_of(before, "edits"), means_of(after, "edits")
    gains = {name: last[name] - first[name] for name in first if name in last}
    chosen = sorted(gains, key=lambda name: (gains[name], name))[len(gains) // 2]
    return first_edit(before, chosen), first_edit(after, chosen)


def first_edit(rollouts: Sequence[Rollout], context: str) -> Rollout:
    return next(rollout for rollout in rollouts if rollout.kind == "edit" and rollout.context_id == context)


def passage_of(rollout: Rollout) -> str:
    """The passage in an edit's prompt, as the knowledge task writes it."""
    return rollout.prompt.rpartition("Passage: ")[2].partition("\n")[0]
