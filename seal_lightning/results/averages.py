"""How every figure is averaged: the repeats of an edit first, then the edits of a context, then contexts.

The queries of a context rise and fall together, and so do its edits. Spreads and intervals are therefore over contexts:
a spread (±) is the standard deviation of a sample, an interval the 95 % percentile bootstrap of the mean. Edits that a
race dropped have no score, and count in no mean.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

from seal_lightning.types import Rollout

FEWEST = 6  # values of an interval: a bootstrap over fewer is little more than their range
# 97.5 % quantiles of Student's t by degrees of freedom; beyond the last it stands for all, up to 4 % too wide.
# fmt: off
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
Edit = list[Rollout]  # its repeats
Value = Callable[[Rollout], float | None]
Bounds = tuple[float, float] | tuple[None, None]


def by_context(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """The rollouts of each context, in their order."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.context_id, []).append(rollout)
    return groups


def by_edit(rollouts: Iterable[Rollout]) -> list[Edit]:
    """The repeats of each edit, edits in their order."""
    edits: dict[tuple[int, str, str, int], Edit] = {}
    for rollout in rollouts:
        key = rollout.round, rollout.context_id, rollout.kind, rollout.edit_index
        edits.setdefault(key, []).append(rollout)
    return list(edits.values())


def edit_means(rollouts: Iterable[Rollout], value: Value) -> dict[str, list[float]]:
    """The means of each edit's repeats, by context; edits and contexts without such a value are missing."""
    means: dict[str, list[float]] = {}
    for repeats in by_edit(rollout for rollout in rollouts if not rollout.dropped):
        if values := [number for rollout in repeats if (number := value(rollout)) is not None]:
            means.setdefault(repeats[0].context_id, []).append(fmean(values))
    return means


def context_means(rollouts: Iterable[Rollout], value: Value) -> dict[str, float]:
    """The mean of each context's edits, each the mean of its repeats."""
    return {context: fmean(values) for context, values in edit_means(rollouts, value).items()}


def score(rollout: Rollout) -> float:
    """Accuracy with the adapter."""
    return rollout.score


def baseline(rollout: Rollout) -> float:
    """Accuracy without one."""
    return rollout.baseline


def mean_and_spread(means: Mapping[str, float]) -> tuple[float, float]:
    """The mean and the spread of at least one context's means."""
    return fmean(means.values()), spread(list(means.values()))


def spread(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Bounds:
    """The 95 % percentile interval of the mean of `values`; none of fewer than `FEWEST`, or without resampling."""
    if len(values) < FEWEST or not resamples:
        return None, None
    draw = random.Random(seed)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[min(resamples - 1, int(0.975 * resamples))]


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of at least two values, such as seeds, by Student's t."""
    half = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; of degrees of freedom in between the wider."""
    return T_95[min(max(int(freedom), 1), len(T_95)) - 1]


def say_interval(low: float | None, high: float | None, count: int, *, form: str = ".3f", factor: float = 1.0) -> str:
    """An interval for a table; where there is none, how many values there are.

    >>> say_interval(0.25, 0.5, 40), say_interval(None, None, 3)
    ('0.250 – 0.500', 'n = 3')
    """
    if low is None or high is None:
        return f"n = {count}"
    return f"{factor * low:{form}} – {factor * high:{form}}"
