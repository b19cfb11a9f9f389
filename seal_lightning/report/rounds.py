"""The E-steps of a run: figures, and self-edits to look at side by side, with the queries that they won and lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import Literal

from seal_lightning.m_step.selection import group_rollouts, outcome_of, without_merit
from seal_lightning.records.entries import chosen
from seal_lightning.report.read import Run
from seal_lightning.results.accuracy import means_of
from seal_lightning.results.averages import Bounds, by_edit, interval
from seal_lightning.results.diversity import Diversity, diversity_by_context, mean_diversity
from seal_lightning.results.edits import Figures, Rewards, figures_of, rewards_of
from seal_lightning.results.rollout_tables import kinds_table
from seal_lightning.results.table import Table
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

Change = Literal["won", "lost", "right", "wrong"]
PAIRS = 3  # pairs of a best and a worst edit
RIGHT = 0.5  # score from which an answer counts as right where it is marked as such


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Quartiles of whole numbers: a quarter lies below `low`, a quarter above `high`."""

    low: float
    middle: float
    high: float
    most: int


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """An E-step in figures.

    Attributes:
        number: Number of the round, from 1.
        figures: Figures of its edits.
        rewards: Rewards of usable edits.
        interval: 95 % interval of the mean reward, over contexts.
        groups: Its edits by context.
        kept: Edits that the filter kept; None where that is not written down.
        reasons: Number of rejected edits by reason, most frequent first.
        tokens: Tokens of an edit; None where they were not counted.
        lines: Lines of an edit that are not blank; None where edits have no text.
        asking: Share of lines with a question mark.
        diversity: How different the usable edits of a context are, on average; None where no context has two.
        kinds: What came of each kind of self-edit; no rows where the task has a single one.
        contexts: Number of contexts whose units are finished.
    """

    number: int
    figures: Figures
    rewards: Rewards
    interval: Bounds
    groups: Sequence[RolloutGroup]
    kept: Sequence[EditOutcome] | None
    reasons: Mapping[str, int]
    tokens: Quartiles | None
    lines: Quartiles | None
    asking: float
    diversity: Diversity | None
    kinds: Table

    @property
    def contexts(self) -> int:
        return len(self.groups)

    @property
    def without_merit(self) -> int:
        """Kept edits that earned no reward, or answer no better than before."""
        return len(without_merit(self.kept or ()))


def round_figures(number: int, rollouts: Sequence[Rollout], run: Run) -> RoundFigures:
    edits = [rollout for rollout in rollouts if rollout.kind == "edit"] or list(rollouts)
    groups = group_rollouts(edits)
    once = [rollout for rollout in edits if rollout.repeat == 0]
    means = [fmean(found) for group in groups if (found := [o.reward for o in group.outcomes if o.reward is not None])]
    lines = [line for rollout in once for line in _lines(rollout.text)]
    kept_edits = chosen(groups, run.kept[number]) if number in run.kept else None
    return RoundFigures(
        number=number + 1,
        figures=figures_of(edits),
        rewards=rewards_of(groups),
        interval=interval(means),
        groups=groups,
        kept=kept_edits,
        reasons=dict(Counter(r.reason or "no reason given" for r in once if r.status == "rejected").most_common()),
        tokens=quartiles([rollout.tokens["edit"] for rollout in once if "edit" in rollout.tokens]),
        lines=quartiles([len(_lines(rollout.text)) for rollout in once if rollout.text]),
        asking=sum("?" in line for line in lines) / len(lines) if lines else 0.0,
        diversity=mean_diversity(diversity_by_context(edits).values()),
        kinds=kinds_table(edits, kept_edits or ()),
    )


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def quartiles(values: Sequence[int]) -> Quartiles | None:
    """None where there are none."""
    if not values:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Quartiles(low, median(values), high, max(values))


# -- examples ----------------------------------------------------------------------------------------------------------


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
    edit_kind: str
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
    outcome = outcome_of(repeats)
    return ShownEdit(
        label=label,
        context_id=outcome.context_id,
        title=titles[outcome.context_id],
        edit_index=outcome.edit_index,
        prompt=outcome.prompt,
        text=outcome.text,
        reward=outcome.reward,
        baseline=outcome.baseline,
        score=outcome.score,
        repeats=len(repeats),
        kept=(outcome.context_id, outcome.edit_index) in kept,
        edit_kind=outcome.edit_kind,
        queries=changes_of(repeats[0]),
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
