"""Figures about an E-step's rollouts, and the tables that show them (arXiv 2506.10943, section 4.1; its spreads too).

Everything is averaged the same way: repeats of an edit, then edits of a context, then contexts. A spread (±) is the
standard deviation of a sample, and 0 for a single value. A rejected edit scores as the baseline, and so does a repeat
whose adapter diverged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, pstdev, stdev

from seal_lightning.results.accuracy import group_by_context
from seal_lightning.results.markdown import table
from seal_lightning.types import Rollout, RolloutGroup

Edit = Sequence[Rollout]  # its repeats
Column = Callable[["Figures"], str]
NEARLY = 1e-9  # averages of equal scores may differ by rounding
ONCE_AN_EDIT = ("prompt", "edit")  # tokens that every repeat's rollout counts again


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the tables.

    Attributes:
        contexts: How many.
        edits: Of all contexts.
        repeats: Of one edit, at most.
        queries: Of all contexts.
        rejected: Share of edits that nothing could be trained on.
        diverged: Share of edits of which at least one repeat diverged.
        baseline: Mean, and spread of the contexts' means.
        score: The same with the adapter.
        over_edits: Spread of the edits of a context, averaged over contexts.
        within_edits: Spread of the repeats of an edit, averaged over edits.
        gain: Score minus baseline.
        improved: Share of edits with a score above the baseline.
        solved: Share of edits with a score of 1: every answer right (ARC's success rate).
        best: Score of the best edit of a context, averaged over contexts.
        reward: Mean over rewarded rollouts; None where there are none.
        terms: What rewards are made of: mean and spread over rollouts, by term.
        tokens: In all, by purpose.
        usage: What endpoints were asked for in all, by purpose.
        dropped: Share of edits that a race gave up; they count as edits and for what they took, not in any score.
        spent: Share of the trained tokens of a full E-step that a race spent; None without one.
        kept: Edits that a filter keeps; None where none chooses.
        thoughts: Texts that thoughts were cut out of, and `unfinished` answers, as a rollout counts them.
    """

    contexts: int
    edits: int
    repeats: int
    queries: int
    rejected: float
    baseline: tuple[float, float]
    score: tuple[float, float]
    over_edits: float
    within_edits: float
    gain: float
    improved: float
    solved: float
    best: float
    reward: float | None
    terms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dropped: float = 0.0
    spent: float | None = None
    kept: int | None = None
    thoughts: Mapping[str, int] = field(default_factory=dict)
    diverged: float = 0.0

    @property
    def requests(self) -> int:
        """That endpoints answered."""
        return int(sum(used.get("requests", 0) for used in self.usage.values()))

    @property
    def dollars(self) -> float | None:
        """What endpoints charged; None where no price is known."""
        known = [used["dollars"] for used in self.usage.values() if "dollars" in used]
        return sum(known) if known else None


def figures_of(rollouts: Sequence[Rollout]) -> Figures:
    """The figures of at least one rollout; all of one kind and round."""
    every = [edit for group in group_by_context(rollouts).values() for edit in _edits(group)]
    groups = group_by_context([rollout for rollout in rollouts if not rollout.dropped])
    by_context = [_edits(group) for group in groups.values()]
    edits = [edit for context in by_context for edit in context]
    usable = [edit for edit in edits if edit[0].status == "ok"]
    scores = [[_score(edit) for edit in context] for context in by_context]
    baseline = mean_and_spread(fmean(map(_baseline, context)) for context in by_context)
    score = mean_and_spread(map(fmean, scores))
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    return Figures(
        contexts=len(by_context),
        edits=len(every),
        repeats=max(map(len, edits)),
        queries=sum(max(len(rollout.questions) for rollout in group) for group in groups.values()),
        rejected=fmean(edit[0].status == "rejected" for edit in every),
        baseline=baseline,
        score=score,
        over_edits=fmean(map(spread, scores)),
        within_edits=fmean(spread([rollout.score for rollout in edit]) for edit in edits),
        gain=score[0] - baseline[0],
        improved=sum(_score(edit) > _baseline(edit) + NEARLY for edit in usable) / len(edits),
        solved=sum(_score(edit) > 1 - NEARLY for edit in usable) / len(edits),
        best=fmean(map(max, scores)),
        reward=fmean(rewards) if rewards else None,
        terms=_terms(rollouts),
        tokens=_tokens(every),
        usage=_usage(rollouts),
        dropped=1 - len(edits) / len(every),
        spent=share_spent(rollouts),
        thoughts=total_thoughts(rollouts),
        diverged=fmean(any(rollout.status == "diverged" for rollout in edit) for edit in every),
    )


def total_thoughts(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """The sums of what the rollouts count about thoughts."""
    total: Counter[str] = Counter()
    for rollout in rollouts:
        total.update(rollout.thoughts)
    return dict(total)


def share_spent(rollouts: Iterable[Rollout]) -> float | None:
    """The share of the trained tokens of a full E-step that a race spent on self-edits; None without a race."""
    edits = [rollout.tokens for rollout in rollouts if rollout.kind == "edit"]
    trained, saved = (sum(tokens.get(name, 0) for tokens in edits) for name in ("trained", "saved"))
    raced = any("saved" in tokens for tokens in edits)
    return trained / (trained + saved) if raced and trained else None


def diverged_edits(rollouts: Iterable[Rollout]) -> int:
    """How many self-edits diverged in at least one repeat."""
    diverged = [rollout for rollout in rollouts if rollout.kind == "edit" and rollout.status == "diverged"]
    return len({(rollout.context_id, rollout.edit_index) for rollout in diverged})


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of usable edits, repeats averaged.

    Attributes:
        mean: Over the edits of a context, averaged over contexts, as accuracies are.
        best: Of the best edit of a context, averaged over contexts.
        within: Standard deviation within a context, averaged over contexts.
    """

    mean: float
    best: float
    within: float


def rewards_of(groups: Sequence[RolloutGroup]) -> Rewards:
    """Of a round's groups; zeros where no edit has a reward."""
    by_group = [[outcome.reward for outcome in group.outcomes if outcome.reward is not None] for group in groups]
    if not (rewarded := [group for group in by_group if group]):
        return Rewards(0.0, 0.0, 0.0)
    return Rewards(fmean(map(fmean, rewarded)), fmean(map(max, rewarded)), fmean(map(pstdev, rewarded)))


def render_figures(rows: Mapping[str, Figures]) -> str:
    """Tables in Markdown, aligned for a terminal: what there is, how well it went, and what rewards are made of."""
    counts: dict[str, Column] = {
        "contexts": lambda row: f"{row.contexts:,}",
        "edits": lambda row: f"{row.edits:,}",
        "repeats": lambda row: f"{row.repeats}",
        "queries": lambda row: f"{row.queries:,}",
        "rejected": lambda row: f"{row.rejected:.1%}",
        "diverged": lambda row: f"{row.diverged:.1%}" if row.diverged else "",
        "thoughts cut": lambda row: f"{cut:,}" if (cut := _texts_cut(row)) else "",
        "unfinished answers": lambda row: f"{row.thoughts['unfinished']:,}" if "unfinished" in row.thoughts else "",
        "dropped": lambda row: f"{row.dropped:.1%}" if row.dropped else "",
        "compute": lambda row: "" if row.spent is None else f"{row.spent:.1%}",
        "kept": lambda row: "" if row.kept is None else f"{row.kept:,}",
        "tokens trained": lambda row: f"{row.tokens['trained']:,}" if "trained" in row.tokens else "",
        "requests": lambda row: f"{row.requests:,}" if row.usage else "",
        "dollars": lambda row: "" if row.dollars is None else f"{row.dollars:.4f}",
    }
    accuracies: dict[str, Column] = {
        "baseline": lambda row: _plus_minus(row.baseline),
        "score": lambda row: _plus_minus(row.score),
        "gain": lambda row: f"{row.gain:+.4f}",
        "over edits": lambda row: f"{row.over_edits:.4f}",
        "within edits": lambda row: f"{row.within_edits:.4f}",
        "improved": lambda row: f"{row.improved:.1%}",
        "solved": lambda row: f"{row.solved:.1%}",
        "best edit": lambda row: f"{row.best:.4f}",
        "reward": lambda row: "" if row.reward is None else f"{row.reward:.4f}",
    }
    names = dict.fromkeys(term for row in rows.values() for term in row.terms)
    terms: dict[str, Column] = {term: partial(_term, term) for term in names}
    return "\n\n".join(_table(rows, columns) for columns in (counts, accuracies, terms) if columns)


def _table(rows: Mapping[str, Figures], columns: Mapping[str, Column]) -> str:
    cells = [[name, *(cell(row) for cell in columns.values())] for name, row in rows.items()]
    return table(["", *columns], cells)


def _term(term: str, row: Figures) -> str:
    return _plus_minus(row.terms[term]) if term in row.terms else ""


def _texts_cut(row: Figures) -> int:
    return row.thoughts.get("edit", 0) + row.thoughts.get("answers", 0)


def _plus_minus(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4f} ± {pair[1]:.4f}"


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """Of at least one value."""
    listed = list(values)
    return fmean(listed), spread(listed)


def spread(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def _edits(rollouts: Sequence[Rollout]) -> list[Edit]:
    """The rollouts of a context by edit."""
    by_edit: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        by_edit.setdefault(rollout.edit_index, []).append(rollout)
    return list(by_edit.values())


def _score(edit: Edit) -> float:
    return fmean(rollout.score for rollout in edit)


def _baseline(edit: Edit) -> float:
    return fmean(rollout.baseline for rollout in edit)


def _terms(rollouts: Sequence[Rollout]) -> dict[str, tuple[float, float]]:
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        for name, value in rollout.terms.items():
            values.setdefault(name, []).append(value)
    return {name: mean_and_spread(listed) for name, listed in values.items()}


def _tokens(edits: Iterable[Edit]) -> dict[str, int]:
    total: dict[str, int] = {}
    for edit in edits:
        for rollout in edit:
            for name, count in rollout.tokens.items():
                if rollout is edit[0] or name not in ONCE_AN_EDIT:
                    total[name] = total.get(name, 0) + count
    return total


def _usage(rollouts: Iterable[Rollout]) -> dict[str, dict[str, float]]:
    total: dict[str, dict[str, float]] = {}
    for rollout in rollouts:
        for purpose, used in rollout.usage.items():
            sums = total.setdefault(purpose, {})
            sums.update({name: sums.get(name, 0) + value for name, value in used.items()})
    return total
