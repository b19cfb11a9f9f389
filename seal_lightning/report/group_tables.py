"""Groups of runs against each other: differences paired by seed and context, one table, in words, and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

from seal_lightning.report.charts import Trend, groups_figure
from seal_lightning.report.groups import Group, GroupLevel, Unit, by_seed, seeds_of
from seal_lightning.report.read import lookup
from seal_lightning.results.averages import context_means, interval, say_interval, score, t_interval, t_quantile
from seal_lightning.results.pairing import Pairing, pair_contexts
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.plural import counted
from seal_lightning.types import Rollout

HEADER = ("setting", "runs", "by itself", "before training", "own edits", "where", "95 % interval", "against the first")
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


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A line of the table of groups.

    Attributes:
        group: Whose it is.
        first: With own edits before training; None where that was not measured, or there is nothing else.
        last: With own edits at the end; None where nothing was measured yet.
        against: The first group; None in its own row.
    """

    group: Group
    first: GroupLevel | None
    last: GroupLevel | None
    against: Contrast | None


def rows_of(groups: Sequence[Group]) -> list[GroupRow]:
    """The lines of the table, each group against the first."""
    return [
        GroupRow(
            group,
            group.levels[0] if len(group.levels) > 1 and group.levels[0].round == 0 else None,
            group.last,
            contrast(group, groups[0]) if place else None,
        )
        for place, group in enumerate(groups)
    ]


def render_groups(groups: Sequence[Group]) -> str:
    """The table as Markdown, and below it what its intervals are over."""
    rows = rows_of(groups)
    return "\n\n".join([to_markdown(to_table(rows)), *notes_of(rows)])


def to_table(rows: Sequence[GroupRow]) -> Table:
    """The groups for a reader."""
    cells = (
        (
            row.group.name,
            say_runs(row.group),
            f"{row.group.base.mean:.3f}" if row.group.base else "",
            f"{row.first.mean:.3f}" if row.first else "",
            f"{row.last.mean:.3f}" if row.last else "no results yet",
            row.last.where if row.last else "",
            say_interval(row.last.low, row.last.high, row.last.count) if row.last else "",
            short_contrast(row.against) if row.against else "",
        )
        for row in rows
    )
    return Table("", HEADER, tuple(cells))


def figure_of(groups: Sequence[Group]) -> Trend | None:
    """None where no group has results."""
    levels = {label_of(group): group.levels for group in groups if group.levels}
    return groups_figure(levels, say_unit([level for found in levels.values() for level in found]))


def notes_of(rows: Sequence[GroupRow]) -> list[str]:
    """What the intervals of a table are over, and what of it is not whole, one sentence each."""
    last = [row.last for row in rows if row.last]
    notes = [f"{unit}."] if (unit := say_unit(last)) else []
    notes += [f"{label_of(row.group)} against the first: {say_contrast(row.against)}." for row in rows if row.against]
    for row in rows:
        if row.group.behind:
            rounds = ", ".join(map(str, row.group.behind))
            notes.append(f"{label_of(row.group)}: some of its runs have come to round {rounds}, others have not yet.")
    return notes


def say_runs(group: Group) -> str:
    """How many runs; of a single one its name."""
    return group.runs[0].name if len(group.runs) == 1 else f"{len(group.runs)}"


def label_of(group: Group) -> str:
    """Its settings, with its run's name where it is a single one."""
    single = len(group.runs) == 1 and group.name != group.runs[0].name
    return f"{group.runs[0].name}: {group.name}" if single else group.name


def say_unit(levels: Sequence[GroupLevel]) -> str:
    """What the intervals of some levels are over; "" where none has one."""
    over = {level.unit for level in levels if level.low is not None}
    if not over:
        return ""
    seeds = sorted({level.count for level in levels if level.unit == "seeds"})
    named = " or ".join(map(str, seeds))
    texts = {
        "seeds": f"over {named} seeds (Student's t)",
        "contexts": "over contexts where there is one seed (bootstrap), which says nothing about other seeds",
    }
    if over == {"contexts"}:
        texts["contexts"] = "over contexts (bootstrap), of one seed each: they say nothing about other seeds"
    return "Intervals are 95 %, " + " and ".join(texts[unit] for unit in ("seeds", "contexts") if unit in over)


def short_contrast(found: Contrast) -> str:
    """A difference for a cell: points with their interval, or why there are none."""
    if found.mean is None:
        return f"not compared: {found.reason}"
    return f"{_points(found.mean)}{_range(found)}{'' if found.paired else ', unpaired'}"


def say_contrast(found: Contrast) -> str:
    """A difference as a sentence without its full stop, with what was paired and what the interval is over."""
    if found.mean is None:
        return f"no difference is shown, since the runs have {found.reason}" if found.of else found.reason
    text = f"{_points(found.mean)} points{_range(found)}"
    where = (
        f" {found.where[0]}" if found.where[0] == found.where[1] else f" {found.where[0]}, the first {found.where[1]}"
    )
    contexts = "the same" if found.contexts == found.of else f"{found.contexts} of {found.of}"
    if not found.paired:
        return f"{text}{where}, not paired (the runs have {found.reason}); 95 % over runs (Welch's t)"
    if found.unit == "seeds":
        return f"{text}{where}, paired over {found.count} seeds and {contexts} contexts; 95 % over seeds (Student's t)"
    if found.low is None:
        return f"{text}{where}, paired over {counted(found.count, 'context')}, too few for an interval"
    over = f"the same {found.count}" if found.contexts == found.of else f"{found.contexts} of {found.of}"
    unsaid = "95 % over contexts (bootstrap), which says nothing about other seeds"
    return f"{text}{where}, paired over {over} contexts; {unsaid}"


def _range(found: Contrast) -> str:
    """Behind the difference; "" where there is none."""
    return "" if found.low is None or found.high is None else f" ({_points(found.low)} to {_points(found.high)})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
