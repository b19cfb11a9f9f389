"""The paper's table from rollouts: base, passage only, self-edits (own or written), with 95 % intervals over contexts.

Queries of one passage rise and fall together, so the bootstrap draws contexts, not queries.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.types import Kind, Rollout, Usage

# The rows, and the rollouts that each is about.
KIND_OF: dict[str, Kind] = {"base": "edit", "passage": "passage", "edits": "edit", "written": "written"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Accuracies are in [0, 1]; `tokens` were trained on, `seconds` are wall-clock time."""

    name: str
    accuracy: float
    low: float
    high: float
    contexts: int
    queries: int
    tokens: int
    seconds: float


def evaluation_means(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean accuracy by column: over contexts, each context's edits and repeats averaged first."""
    return {row.name: row.accuracy for row in accuracy_table(rollouts, resamples=0)}


def accuracy_table(rollouts: Sequence[Rollout], *, resamples: int = 2000) -> list[Row]:
    """The rows that the rollouts allow, in the order of `KIND_OF`; bootstrap with a fixed seed."""
    rows = []
    for name, kind in KIND_OF.items():
        if wanted := [rollout for rollout in rollouts if rollout.kind == kind]:
            rows.append(_row(name, wanted, resamples))
    return rows


def rounds_table(validations: Mapping[int, Sequence[Rollout]], *, resamples: int = 2000) -> list[Row]:
    """One table of a run: the baselines of its first validation, and the edits of every round's.

    Args:
        validations: The rollouts of each validation by the number of rounds before it.
        resamples: Of the bootstrap.
    """
    numbers = sorted(validations)
    rows = {row.name: row for row in accuracy_table(validations[numbers[0]], resamples=resamples)}
    if "edits" not in rows:
        return list(rows.values())
    by_round = []
    for number in numbers:
        edits = [rollout for rollout in validations[number] if rollout.kind == KIND_OF["edits"]]
        by_round.append(_row(f"edits after round {number}" if number else "edits before training", edits, resamples))
    return [
        *(rows[name] for name in ("base", "passage") if name in rows),
        *by_round,
        *(rows[name] for name in ("written",) if name in rows),
    ]


def total_usage(rollouts: Iterable[Rollout]) -> Usage:
    """What endpoints were asked for these rollouts, and what they charged."""
    return sum((Usage.from_dict(one) for rollout in rollouts for one in rollout.usage.values()), Usage())


def render_usage(usage: Usage) -> str:
    """One line: requests, tokens, dollars; "" where no endpoint was asked."""
    if not usage.requests and not usage.cached:
        return ""
    dollars = "no price known" if usage.dollars is None else f"${usage.dollars:.6f}"
    if not usage.requests:
        dollars = "$0"
    return (
        f"endpoints: {usage.requests} requests and {usage.cached} from the cache, {usage.prompt_tokens} prompt and "
        f"{usage.completion_tokens} completion tokens, {dollars}"
    )


def group_by_context(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """The rollouts of each context, in their order."""
    by_context: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_context.setdefault(rollout.context_id, []).append(rollout)
    return by_context


def _row(name: str, rollouts: Sequence[Rollout], resamples: int) -> Row:
    by_context = group_by_context(rollouts)
    base = name == "base"
    values = [fmean(r.baseline if base else r.score for r in group) for group in by_context.values()]
    low, high = bootstrap_interval(values, resamples=resamples)
    phases = ("baseline",) if base else ("sampling", "inner loop", "answering")
    return Row(
        name=name,
        accuracy=fmean(values),
        low=low,
        high=high,
        contexts=len(values),
        queries=sum(len(group[0].questions) for group in by_context.values()),
        tokens=0 if base else sum(rollout.tokens.get("trained", 0) for rollout in rollouts),
        seconds=sum(rollout.seconds.get(phase, 0.0) for rollout in rollouts for phase in phases),
    )


def bootstrap_interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `values`; the mean itself twice where nothing is resampled."""
    if not resamples:
        return fmean(values), fmean(values)
    draw = random.Random(seed)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[min(resamples - 1, int(0.975 * resamples))]


# -- pairs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference in accuracy over contexts that were asked both times, with its 95 % interval."""

    mean: float
    low: float
    high: float
    contexts: int


def context_means(rollouts: Sequence[Rollout], name: str) -> dict[str, float]:
    """By context, the values that a row of the table (a name of `KIND_OF`) is the mean of."""
    wanted = [rollout for rollout in rollouts if rollout.kind == KIND_OF[name]]
    return {
        context: fmean(one.baseline if name == "base" else one.score for one in group)
        for context, group in group_by_context(wanted).items()
    }


def paired_difference(after: Mapping[str, float], before: Mapping[str, float]) -> Difference | None:
    """How much higher `after` is, over the contexts that both have; None where they have none in common.

    The bootstrap draws contexts with both of their values, so that how hard they are does not count.
    """
    values = [after[name] - before[name] for name in after if name in before]
    return Difference(fmean(values), *bootstrap_interval(values), len(values)) if values else None


def render_table(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = [
        "| | accuracy | 95 % interval | contexts | queries | tokens trained | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.accuracy:.3f} | {row.low:.3f} – {row.high:.3f} | {row.contexts} | {row.queries} | "
        f"{row.tokens} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)
