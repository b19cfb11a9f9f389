"""What a round, an evaluation or a prediction came to, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seal_lightning.results.accuracy import Row
from seal_lightning.trackers.base import Table
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


def best_and_worst(groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome], *, count: int) -> Table:
    """The edits with the highest and the lowest rewards of a round, `count` of each where there are so many."""
    scored = [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]
    ranked = sorted(scored, key=lambda outcome: -(outcome.reward or 0.0))
    chosen = {(outcome.context_id, outcome.edit_index) for outcome in kept}
    best = ranked[:count]
    shown = [("best", outcome) for outcome in best] + [("worst", one) for one in ranked[len(best) :][-count:]]
    rows = [
        (name, one.context_id, one.edit_index, one.reward, one.score, one.gain, _kept(one, chosen), one.text)
        for name, one in shown
    ]
    return Table(("", "context", "edit", "reward", "score", "gain", "kept", "text"), rows)


def edits(rollouts: Sequence[Rollout], kept: Sequence[EditOutcome] = ()) -> Table:
    """Every repeat of every self-edit, with the prompt that it answers."""
    chosen = {(outcome.context_id, outcome.edit_index) for outcome in kept}
    rows = [
        (one.context_id, one.round, one.edit_index, one.repeat, one.kind, one.prompt, one.text, one.status, one.reason,
         one.baseline, one.score, one.gain, one.reward, _kept(one, chosen))
        for one in rollouts
    ]  # fmt: skip
    columns = "context round edit repeat kind prompt text status reason baseline score gain reward kept".split()
    return Table(tuple(columns), rows)


def answers(rollouts: Sequence[Rollout]) -> Table:
    """Every query, with what the policy answered before an adapter was trained and with it."""
    rows = [
        (one.context_id, one.round, one.edit_index, one.repeat, one.kind, question, " | ".join(_at(one.golds, at, ())),
         _at(one.baseline_answers, at, ""), _at(one.answers, at, ""),
         _at(one.baseline_scores, at, None), _at(one.scores, at, None))
        for one in rollouts
        for at, question in enumerate(one.questions)
    ]  # fmt: skip
    columns = "context round edit repeat kind question golds before answer score_before score".split()
    return Table(tuple(columns), rows)


def accuracies(rows: Sequence[Row]) -> Table:
    """The table that a command ends with."""
    cells = [
        (row.name, row.accuracy, row.low, row.high, row.contexts, row.queries, row.tokens, row.seconds) for row in rows
    ]
    return Table(("", "accuracy", "low", "high", "contexts", "queries", "tokens_trained", "seconds"), cells)


def _kept(one: EditOutcome | Rollout, chosen: set[tuple[str, int]]) -> str:
    return "yes" if (one.context_id, one.edit_index) in chosen else ""


def _at(values: Sequence[Any], place: int, otherwise: Any) -> Any:
    """Of values that are aligned by query, and empty where nothing was done."""
    return values[place] if place < len(values) else otherwise
