"""What a round, an evaluation or a prediction came to, as tables: for trackers and for the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.results.diversity import diversity_by_context
from seal_lightning.results.edits import figures_of
from seal_lightning.results.table import Table
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

T = TypeVar("T")
EDIT = ("context", "round", "edit", "repeat", "kind")
KIND = "edit_kind"  # a column of tables of several kinds of self-edit
EDITS = (*EDIT, KIND, "prompt", "text", "status", "reason", "baseline", "score", "gain", "reward", "similarity", "kept")
ANSWERS = (*EDIT, "question", "golds", "before", "answer", "score_before", "score")
ACCURACIES = ("", "accuracy", "low", "high", "contexts", "queries", "tokens_trained", "seconds")


def best_and_worst(groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome], *, count: int) -> tuple[Table, Table]:
    """The edits with the highest and those with the lowest rewards of a round, `count` of each where there are so many.

    No edit is in both.
    """
    scored = [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]
    ranked = sorted(scored, key=lambda outcome: -(outcome.reward or 0.0))
    best = ranked[:count]
    return _outcomes("Best", best, kept), _outcomes("Worst", ranked[len(best) :][-count:], kept)


def _outcomes(title: str, outcomes: Iterable[EditOutcome], kept: Iterable[EditOutcome]) -> Table:
    chosen = _keys(kept)
    outcomes = list(outcomes)
    kinds = any(one.edit_kind for one in outcomes)
    rows = ((one.context_id, one.edit_index, *([one.edit_kind] if kinds else []), one.reward, one.score, one.gain,
             _yes(one, chosen), one.text) for one in outcomes)  # fmt: skip
    header = ("context", "edit", *([KIND] if kinds else []), "reward", "score", "gain", "kept", "text")
    return Table(title, header, tuple(rows))


def diversity_table(rollouts: Iterable[Rollout]) -> Table:
    """How different the usable edits of each context are, those that are most alike first."""
    found = sorted(diversity_by_context(rollouts).items(), key=lambda item: -item[1].similarity)
    rows = ((name, each.compression, each.distinct, each.similarity) for name, each in found)
    return Table("Diversity", ("context", "compression", "distinct", "similarity"), tuple(rows))


def kinds_table(rollouts: Iterable[Rollout], kept: Iterable[EditOutcome] = ()) -> Table:
    """What came of each kind of self-edit; no rows where the task has a single one."""
    chosen = _keys(kept)
    groups: dict[str, list[Rollout]] = {}
    for one in rollouts:
        if one.edit_kind and not one.dropped:
            groups.setdefault(one.edit_kind, []).append(one)
    rows = []
    for kind, some in groups.items():
        figures = figures_of(some)
        edits = {(one.context_id, one.edit_index) for one in some}
        rows.append((kind, figures.edits, figures.rejected, figures.score[0], figures.gain, len(edits & chosen)))
    return Table("Kinds", (KIND, "edits", "rejected", "score", "gain", "kept"), tuple(rows))


def edits_table(rollouts: Iterable[Rollout], kept: Iterable[EditOutcome] = ()) -> Table:
    """Every repeat of every self-edit, with the prompt that it answers."""
    chosen = _keys(kept)
    rows = (
        (one.context_id, one.round, one.edit_index, one.repeat, one.kind, one.edit_kind, one.prompt, one.text,
         one.status, one.reason, one.baseline, one.score, one.gain, one.reward, one.similarity, _yes(one, chosen))
        for one in rollouts
    )  # fmt: skip
    return Table("", EDITS, tuple(rows))


def answers_table(rollouts: Iterable[Rollout]) -> Table:
    """Every query, with what the policy answered before an adapter was trained and with it."""
    rows = (
        (one.context_id, one.round, one.edit_index, one.repeat, one.kind,
         question, " | ".join(_at(one.golds, at) or ()), _at(one.baseline_answers, at) or "",
         _at(one.answers, at) or "",
         _at(one.baseline_scores, at), _at(one.scores, at))
        for one in rollouts
        for at, question in enumerate(one.questions)
    )  # fmt: skip
    return Table("", ANSWERS, tuple(rows))


def accuracies_table(rows: Iterable[AccuracyRow]) -> Table:
    """The table that a command ends with, in numbers."""
    cells = (
        (row.name, row.accuracy, row.low, row.high, row.contexts, row.queries, row.tokens, row.seconds) for row in rows
    )
    return Table("", ACCURACIES, tuple(cells))


def _keys(kept: Iterable[EditOutcome]) -> set[tuple[str, int]]:
    return {(outcome.context_id, outcome.edit_index) for outcome in kept}


def _yes(one: EditOutcome | Rollout, chosen: set[tuple[str, int]]) -> str:
    return "yes" if (one.context_id, one.edit_index) in chosen else ""


def _at(values: Sequence[T], place: int) -> T | None:
    """One of the values that are aligned by query, and that are empty where nothing was done."""
    return values[place] if place < len(values) else None
