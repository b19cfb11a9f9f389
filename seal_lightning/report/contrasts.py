"""The difference between two groups of runs, paired by seed and context where both have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

from seal_lightning.report.groups import Group, GroupLevel, Unit, by_seed, seeds_of
from seal_lightning.report.settings import lookup
from seal_lightning.results.averages import context_means, interval, score, t_interval, t_quantile
from seal_lightning.results.pairing import Pairing, pair_contexts
from seal_lightning.types import Rollout

Pair = tuple[Sequence[Rollout], Sequence[Rollout]]  # the own edits of the one and of the other


@dataclass(frozen=True, slots=True)
class Contrast:
    """A group against another one, with own edits.

    Attributes:
        mean: Its accuracy minus the other's; None where the two cannot be compared.
        low: Lower end of the 95 % interval; None where there is none.
        high: Its upper end.
        unit: What the interval is over.
        count: Number of pairs, or of the smaller group's seeds where nothing is paired.
        paired: Whether the same contexts (and, over seeds, the same seeds) were compared one by one.
        contexts: Contexts in common; the fewest, where seeds have different ones.
        of: Contexts of the group that has more.
        where: Places in the two; they differ where the two were to run for different numbers of rounds.
        reason: Why the difference or its interval is missing, in a few words.
    """

    mean: float | None
    low: float | None
    high: float | None
    unit: Unit
    count: int
    paired: bool
    contexts: int
    of: int
    where: tuple[str, str]
    reason: str = ""


def contrast(group: Group, other: Group) -> Contrast:
    """Compare a group with another, paired by seed and context where both have them.

    Two groups that were to run equally long are compared after the last round that both have come to.
    """
    places = _places(group, other)
    if places is None:
        return Contrast(None, None, None, "contexts", 0, False, 0, 0, ("", ""), "one of the two has no results yet")
    where = (places[0].where, places[1].where)
    keys = set.intersection(*(set(seeds_of(run)) for run in (*group.runs, *other.runs)))  # a filter may have one more
    mine, others = by_seed(group.runs, places[0].round, keys), by_seed(other.runs, places[1].round, keys)
    if len(common := [(mine[seed], others[seed]) for seed in mine if seed in others]) > 1:
        return _over_seeds(common, where)
    mine, others = by_seed(group.runs, places[0].round), by_seed(other.runs, places[1].round)
    if len(mine) > 1 and len(others) > 1:
        return _unpaired(list(mine.values()), list(others.values()), where)
    return _over_contexts(common or [(one, two) for one in mine.values() for two in others.values()], where)


def _places(group: Group, other: Group) -> tuple[GroupLevel, GroupLevel] | None:
    """Where two groups are compared; None where one has no results."""
    if group.last is None or other.last is None:
        return None
    planned = {lookup(one.runs[0].config, "trainer.max_epochs") for one in (group, other)}
    common = {level.round for level in group.levels} & {level.round for level in other.levels}
    if len(planned) > 1 or not common:
        return group.last, other.last
    mine, others = (next(level for level in reversed(one.levels) if level.round in common) for one in (group, other))
    return mine, others


def _over_seeds(pairs: Sequence[Pair], where: tuple[str, str]) -> Contrast:
    pairings = [pair_contexts(mine, others) for mine, others in pairs]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    contexts, of = len(least.pairs), max(least.mine, least.others)
    if not least.pairs:
        return Contrast(None, None, None, "seeds", 0, False, 0, of, where, _why_not(least))
    values = [fmean(_differences(*pair, pairing)) for pair, pairing in zip(pairs, pairings, strict=True)]
    return Contrast(fmean(values), *t_interval(values), "seeds", len(values), True, contexts, of, where)


def _over_contexts(pairs: Sequence[Pair], where: tuple[str, str]) -> Contrast:
    """Where one of the two has a single seed: against the same seed of the other, or against the mean of all."""
    pairings = [pair_contexts(mine, others) for mine, others in pairs]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    of = max(least.mine, least.others)
    if not least.pairs:
        return Contrast(None, None, None, "contexts", 0, False, 0, of, where, _why_not(least))
    side = 0 if len({id(mine) for mine, _ in pairs}) == 1 else 1  # the single seed's contexts
    values_of: dict[str, list[float]] = {}
    for pair, pairing in zip(pairs, pairings, strict=True):
        for names, value in zip(pairing.pairs, _differences(*pair, pairing), strict=True):
            values_of.setdefault(names[side], []).append(value)
    values = [fmean(found) for found in values_of.values() if len(found) == len(pairs)]
    if not values:
        return Contrast(None, None, None, "contexts", 0, False, 0, of, where, _why_not(least))
    return Contrast(fmean(values), *interval(values), "contexts", len(values), True, len(values), of, where)


def _unpaired(
    mine: Sequence[Sequence[Rollout]], others: Sequence[Sequence[Rollout]], where: tuple[str, str]
) -> Contrast:
    """Over runs of different seeds, on the contexts in common (Welch's t)."""
    pairings = [pair_contexts(one, other) for one in mine for other in others]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    contexts, of = len(least.pairs), max(least.mine, least.others)
    count = min(len(mine), len(others))
    if not least.whole:
        return Contrast(None, None, None, "seeds", 0, False, contexts, of, where, _why_not(least))
    one, other = ([fmean(context_means(edits, score).values()) for edits in found] for found in (mine, others))
    parts = [variance(values) / len(values) for values in (one, other)]
    mean = fmean(one) - fmean(other)
    total = sum(parts)
    below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    half = t_quantile(total**2 / below) * sqrt(total) if total else 0.0
    return Contrast(mean, mean - half, mean + half, "seeds", count, False, contexts, of, where, "different seeds")


def _differences(mine: Sequence[Rollout], others: Sequence[Rollout], pairing: Pairing) -> list[float]:
    one, other = context_means(mine, score), context_means(others, score)
    return [one[name] - other[partner] for name, partner in pairing.pairs]


def _why_not(pairing: Pairing) -> str:
    if pairing.reworded:
        return "the same passages, but other queries"
    if pairing.pairs:
        return f"only {len(pairing.pairs)} of {max(pairing.mine, pairing.others)} contexts in common, and other seeds"
    return "different contexts"
