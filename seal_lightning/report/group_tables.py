"""Groups of runs as one table and one figure: as Markdown, in words, and as an SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal_lightning.report.charts import Trend, groups_figure
from seal_lightning.report.contrasts import Contrast, contrast
from seal_lightning.report.groups import Group, GroupLevel
from seal_lightning.results.averages import say_interval
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.plural import counted

HEADER = ("setting", "runs", "by itself", "before training", "own edits", "where", "95 % interval", "against the first")


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
