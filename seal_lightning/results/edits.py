"""Figures about an E-step's rollouts, and the tables that show them (arXiv 2506.10943, section 4.1; its spreads too).

Everything is averaged as `averages.py` says. A rejected edit scores as the baseline, and so does a repeat whose adapter
diverged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from seal_lightning.results.averages import (
    Edit,
    baseline,
    by_edit,
    context_means,
    edit_means,
    mean_and_spread,
    score,
    spread,
)
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.results.usage import total_tokens, usage_by_purpose
from seal_lightning.types import Rollout, RolloutGroup, Usage

Column = Callable[["Figures"], str]
NEARLY = 1e-9  # averages of equal scores may differ by rounding


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the tables. Pairs are the mean over contexts and the spread of the contexts' means.

    Attributes:
        contexts: Number of contexts.
        edits: Number of edits of all contexts.
        repeats: Most repeats of one edit.
        queries: Number of queries of all contexts.
        rejected: Share of edits that nothing could be trained on.
        diverged: Share of edits of which at least one repeat diverged.
        baseline: Accuracy without an adapter.
        score: Accuracy with it.
        over_edits: Spread of the edits of a context, averaged over contexts.
        within_edits: Spread of the repeats of an edit, averaged over edits.
        gain: Score minus baseline.
        improved: Share of edits with a score above the baseline.
        solved: Share of edits with a score of 1: every answer right (ARC's success rate).
        best: Score of the best edit of a context, averaged over contexts.
        reward: Mean over contexts of the edits with a reward; None where there are none.
        terms: What rewards are made of, by term.
        tokens: Tokens in all, by purpose.
        usage: What endpoints were asked for in all, by purpose.
        dropped: Share of edits that a race gave up; they count as edits and for what they took, not in any score.
        spent: Share of the trained tokens of a full E-step that a race spent; None without one.
        kept: Number of edits that a filter keeps; None where none chooses.
        thoughts: Number of texts that thoughts were cut out of, and of `unfinished` answers, as a rollout counts them.
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
    usage: Mapping[str, Usage] = field(default_factory=dict)
    dropped: float = 0.0
    spent: float | None = None
    kept: int | None = None
    thoughts: Mapping[str, int] = field(default_factory=dict)
    diverged: float = 0.0

    @property
    def total(self) -> Usage:
        """What endpoints were asked for, whatever the purpose."""
        return sum(self.usage.values(), Usage())


def figures_of(rollouts: Sequence[Rollout]) -> Figures:
    """The figures of at least one rollout; all of one kind and round."""
    every = by_edit(rollouts)
    ran = [rollout for rollout in rollouts if not rollout.dropped]
    edits = by_edit(ran)
    usable = [edit for edit in edits if edit[0].status == "ok"]
    scores = edit_means(ran, score)
    before, after = (mean_and_spread(context_means(ran, value)) for value in (baseline, score))
    rewards = context_means(_sound(rollouts), lambda rollout: rollout.reward)
    queries = {rollout.context_id: len(rollout.questions) for rollout in ran if rollout.questions}
    return Figures(
        contexts=len(scores),
        edits=len(every),
        repeats=max(map(len, edits)),
        queries=sum(queries.values()),
        rejected=fmean(edit[0].status == "rejected" for edit in every),
        baseline=before,
        score=after,
        over_edits=fmean(map(spread, scores.values())),
        within_edits=fmean(spread([rollout.score for rollout in edit]) for edit in edits),
        gain=after[0] - before[0],
        improved=sum(_mean(edit, score) > _mean(edit, baseline) + NEARLY for edit in usable) / len(edits),
        solved=sum(_mean(edit, score) > 1 - NEARLY for edit in usable) / len(edits),
        best=fmean(map(max, scores.values())),
        reward=fmean(rewards.values()) if rewards else None,
        terms=terms_of(rollouts),
        tokens=total_tokens(rollouts),
        usage=usage_by_purpose(rollouts),
        dropped=1 - len(edits) / len(every),
        spent=share_spent(rollouts),
        thoughts=total_thoughts(rollouts),
        diverged=fmean(any(rollout.status == "diverged" for rollout in edit) for edit in every),
    )


def terms_of(rollouts: Sequence[Rollout]) -> dict[str, tuple[float, float]]:
    """Mean and spread of each of the reward's terms."""
    sound = _sound(rollouts)
    names = dict.fromkeys(name for rollout in sound for name in rollout.terms)
    return {name: mean_and_spread(context_means(sound, lambda one, name=name: one.terms.get(name))) for name in names}


def _sound(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Without the edits that diverged in a repeat, which earn no reward in the others either."""
    return [one for edit in by_edit(rollouts) if all(one.status != "diverged" for one in edit) for one in edit]


def _mean(edit: Edit, value: Callable[[Rollout], float]) -> float:
    return fmean(map(value, edit))


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
    """Rewards of usable edits.

    Attributes:
        mean: Mean reward, averaged as accuracies are.
        best: Reward of the best edit of a context, averaged over contexts.
        within: Spread of the edits of a context, averaged over contexts.
    """

    mean: float
    best: float
    within: float


def rewards_of(groups: Sequence[RolloutGroup]) -> Rewards:
    """The rewards of a round's groups; zeros where no edit has one."""
    by_group = [[outcome.reward for outcome in group.outcomes if outcome.reward is not None] for group in groups]
    if not (rewarded := [group for group in by_group if group]):
        return Rewards(0.0, 0.0, 0.0)
    return Rewards(fmean(map(fmean, rewarded)), fmean(map(max, rewarded)), fmean(map(spread, rewarded)))


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
        "requests": lambda row: f"{row.total.requests:,}" if row.usage else "",
        "dollars": lambda row: "" if row.total.dollars is None else f"{row.total.dollars:.4f}",
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
    terms: dict[str, Column] = {
        term: lambda row, term=term: _plus_minus(row.terms[term]) if term in row.terms else "" for term in names
    }
    return "\n\n".join(to_markdown(_table(rows, columns)) for columns in (counts, accuracies, terms) if columns)


def _table(rows: Mapping[str, Figures], columns: Mapping[str, Column]) -> Table:
    cells = ((name, *(cell(row) for cell in columns.values())) for name, row in rows.items())
    return Table("", ("", *columns), tuple(cells))


def _texts_cut(row: Figures) -> int:
    return row.thoughts.get("edit", 0) + row.thoughts.get("answers", 0)


def _plus_minus(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4f} ± {pair[1]:.4f}"
