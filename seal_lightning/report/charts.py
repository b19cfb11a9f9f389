"""Where the marks of a chart lie. Templates draw them as SVG whose widths are percentages, so that a chart fits a phone
without shrinking its text; heights are pixels. Every chart stands in or beside a table with the same numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.report.groups import GroupLevel
from seal_lightning.report.measure import MeasuredRun
from seal_lightning.report.rounds import RoundFigures
from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.types import RolloutGroup

HEIGHT = 190  # of a chart over rounds, pixels
CONTEXTS = 30  # rows of a chart of contexts
Line = tuple[str, str, Sequence[tuple[str, float, float | None, float | None]]]  # name, shape; place, mean, interval


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid and its label."""

    at: str
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """From `low` to `high`; `ticks` lie in between."""

    low: float
    high: float
    ticks: tuple[Tick, ...] = ()

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def at(self, value: float) -> str:
        """Where a value lies from left to right, as SVG has it."""
        return percent(self.share(value))

    def down(self, value: float) -> float:
        """Where a value lies from the top, in pixels of a chart over rounds."""
        return round(HEIGHT * (1 - self.share(value)), 1)


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of the accuracy chart."""

    row: AccuracyRow | GroupLevel
    tone: str
    left: str
    middle: str
    right: str


@dataclass(frozen=True, slots=True)
class Point:
    """A mark over a round; `top` and `bottom` end its whisker."""

    at: str
    y: float
    top: float
    bottom: float
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """A line over rounds; `shape` tells it apart without colour."""

    name: str
    shape: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Trend:
    """A chart over rounds; `caption` says what its intervals are over, where they differ."""

    series: tuple[Series, ...]
    rounds: tuple[Tick, ...]
    ticks: tuple[tuple[float, str], ...]  # from the top, label
    caption: str = ""
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Dot:
    """Edits of one context with the same reward."""

    at: str
    radius: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Strip:
    """A context, by its title: the rewards of its edits in some rounds, and in words."""

    context_id: str
    title: str
    dots: tuple[tuple[Dot, ...], ...]
    rewards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Strips:
    """The chart of rewards within contexts."""

    rows: tuple[Strip, ...]
    rounds: tuple[int, ...]
    scale: Scale
    left_out: int


def percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def scale_over(values: Iterable[float]) -> Scale:
    """A scale from 0 (or the least value below it) over all values, with three to six round ticks."""
    listed = [0.0, *values]
    low, high = min(listed), max(listed)
    high = high if high > low else low + 1.0
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    bounds = Scale(first * step, last * step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
    ticks = [number * step for number in range(first, last + 1)]
    return Scale(bounds.low, bounds.high, tuple(Tick(bounds.at(tick), f"{tick:.{digits}f}") for tick in ticks))


def in_percent(scale: Scale) -> Scale:
    """The same with its labels in percent."""
    labels = [Tick(tick.at, f"{100 * float(tick.label):.3g} %") for tick in scale.ticks]
    return Scale(scale.low, scale.high, tuple(labels))


def intervals(rows: Sequence[AccuracyRow], scale: Scale) -> list[Interval]:
    """The rows of an accuracy table; own edits stand out, the last of them most."""
    last = max((place for place, row in enumerate(rows) if row.name.startswith("edits")), default=-1)
    return [
        Interval(
            row,
            "last" if place == last else "edits" if row.name.startswith("edits") else "other",
            *_whisker(row.low, row.accuracy, row.high, scale),
        )
        for place, row in enumerate(rows)
    ]


def _whisker(low: float | None, mean: float, high: float | None, scale: Scale) -> tuple[str, str, str]:
    """Where the ends and the middle of an interval lie; without an interval, all at the mean."""
    return scale.at(mean if low is None else low), scale.at(mean), scale.at(mean if high is None else high)


def trend_of(runs: Sequence[MeasuredRun]) -> Trend | None:
    """Rewards over rounds: mean and best of one run, the means of several; None before there are two rounds.

    Whiskers are the 95 % interval of the mean.
    """
    numbers = sorted({found.number for run in runs for found in run.rounds})
    if len(numbers) < 2:
        return None
    across = {number: percent((place + 0.5) / len(numbers)) for place, number in enumerate(numbers)}
    lines: list[Line] = []
    for place, run in enumerate(runs):
        name = "mean" if len(runs) == 1 else run.run.name
        means = [(across[one.number], one.rewards.mean, one.interval[0], one.interval[1]) for one in run.rounds]
        lines.append((name, SHAPES[place % len(SHAPES)], means))
    if len(runs) == 1:
        tops = [(across[found.number], found.rewards.best, None, None) for found in runs[0].rounds]
        lines.append(("best of each context", "diamond", tops))
    rounds = tuple(Tick(across[number], f"round {number}") for number in numbers)
    return _trend(lines, rounds)


def _trend(lines: Sequence[Line], rounds: tuple[Tick, ...], caption: str = "", *, percents: bool = False) -> Trend:
    values = (value for _, _, points in lines for _, *values in points for value in values)
    scale = scale_over(value for value in values if value is not None)
    scale = in_percent(scale) if percents else scale
    series = []
    for name, shape, points in lines:
        marks = [
            Point(
                at,
                scale.down(mean),
                scale.down(mean if high is None else high),
                scale.down(mean if low is None else low),
                mean,
            )
            for at, mean, low, high in points
        ]
        series += [Series(name, shape, tuple(marks))] if marks else []
    ticks = tuple((round(HEIGHT * (1 - float(tick.at[:-1]) / 100), 1), tick.label) for tick in scale.ticks)
    return Trend(tuple(series), rounds, ticks, caption)


def curves_over(curves: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]]) -> Trend:
    """Accuracy over a quantity on a logarithmic axis: of each curve the quantities, means and intervals, in order."""
    logs = [math.log(max(1.0, quantity)) for points in curves.values() for quantity, *_ in points]
    first, last = min(logs), max(logs)

    def across(quantity: float) -> str:  # not at the very edges, where a label would be cut
        share = (math.log(max(1.0, quantity)) - first) / (last - first) if last > first else 0.5
        return percent(0.1 + 0.8 * share)

    lines: list[Line] = [
        (
            name,
            SHAPES[number % len(SHAPES)],
            [(across(quantity), mean, low, high) for quantity, mean, low, high in points],
        )
        for number, (name, points) in enumerate(curves.items())
    ]
    marked = [math.exp(first + share * (last - first)) for share in (0.0, 0.5, 1.0)]
    return _trend(lines, tuple(Tick(across(tokens), f"{tokens:,.0f}") for tokens in marked), percents=True)


def strips_of(rounds: Sequence[RoundFigures], titles: Mapping[str, str]) -> Strips | None:
    """The rewards of the first and the last round by context, contexts by their mean in the first; None without any.

    Of many contexts every n-th is shown.
    """
    shown = [rounds[0], rounds[-1]] if len(rounds) > 1 else list(rounds)
    rewards = [{group.context_id: _rewards(found, group) for group in found.groups} for found in shown]
    names = [name for name in rewards[0] if rewards[0][name]] if rewards else []
    if not names:
        return None
    names.sort(key=lambda name: (-sum(value for value, _ in rewards[0][name]) / len(rewards[0][name]), name))
    step = -(-len(names) // CONTEXTS)
    scale = scale_over(value for found in rewards for group in found.values() for value, _ in group)
    rows = tuple(
        Strip(
            name,
            titles.get(name, name),
            tuple(_dots(found.get(name, []), scale) for found in rewards),
            tuple(", ".join(f"{value:.2f}" for value, _ in found.get(name, [])) for found in rewards),
        )
        for name in names[::step]
    )
    return Strips(rows, tuple(found.number for found in shown), scale, len(names) - len(rows))


def _rewards(found: RoundFigures, group: RolloutGroup) -> list[tuple[float, bool]]:
    """The rewards of a context's edits, and whether each was kept."""
    kept = {(edit.context_id, edit.edit_index) for edit in found.kept or ()}
    return [(o.reward, (o.context_id, o.edit_index) in kept) for o in group.outcomes if o.reward is not None]


def _dots(rewards: Sequence[tuple[float, bool]], scale: Scale) -> tuple[Dot, ...]:
    """Equal rewards are one larger dot; kept ones lie above."""
    counts = Counter((round(value, 6), kept) for value, kept in rewards)
    return tuple(
        Dot(scale.at(value), round(2.6 + 1.1 * math.sqrt(count), 1), kept)
        for (value, kept), count in sorted(counts.items(), key=lambda item: (item[0][1], item[0][0]))
    )


# -- groups of runs ----------------------------------------------------------------------------------------------------

TONES = ("#0b6a5a", "#a2440c", "#57606b", "#a32a21")  # of series in a file of its own; a page has its style sheet's
SHAPES = ("circle", "diamond", "square", "triangle")
APART = 0.5  # of the width of a round, over which groups are spread


def level_interval(level: GroupLevel, scale: Scale) -> Interval:
    """The end of a group in the chart of groups."""
    return Interval(level, "edits", *_whisker(level.low, level.mean, level.high, scale))


def groups_figure(levels: Mapping[str, Sequence[GroupLevel]], caption: str) -> Trend | None:
    """Accuracy with own edits over rounds, groups side by side, with intervals; None where there is none."""
    numbers = sorted({(level.round or 0, level.where) for found in levels.values() for level in found})
    if not numbers:
        return None
    places = {where: (place + 0.5) / len(numbers) for place, (_, where) in enumerate(numbers)}
    width = APART / len(numbers)
    lines: list[Line] = []
    for number, (name, found) in enumerate(levels.items()):
        aside = width * ((number + 0.5) / len(levels) - 0.5)
        points = [(percent(places[one.where] + aside), one.mean, one.low, one.high) for one in found]
        lines.append((name, SHAPES[(number + number // len(SHAPES)) % len(SHAPES)], points))
    across = tuple(Tick(percent(places[where]), where) for _, where in numbers)
    return _trend(lines, across, caption, percents=True)
