"""What the templates are given: a chapter for each run, and the comparison of several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import yaml

from seal_lightning.report import charts
from seal_lightning.report.adapted import DocumentRow, documents_of, measured_by
from seal_lightning.report.advice import Advice, advise
from seal_lightning.report.alike import differences_of
from seal_lightning.report.costs import Prices, cost_notes, costs_of, costs_table
from seal_lightning.report.group_tables import GroupRow, figure_of, notes_of, rows_of
from seal_lightning.report.groups import group_runs
from seal_lightning.report.measure import MeasuredRun
from seal_lightning.report.read import flat, lookup, plain
from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.results.left_out import MISSING
from seal_lightning.results.retention import summary_table
from seal_lightning.results.table import Table
from seal_lightning.text.escaping import shortened
from seal_lightning.text.plural import counted

VALUE = 200  # of a setting
CONFIG = 60_000  # characters of a configuration that are shown
CELL = 300  # of a text in a Markdown table
DIFFERING = 3  # settings in which runs differ, in the first sentence; the table of them has all
ABOUT = {  # what a run is, at a glance
    "model": "model.source.name",
    "task": "model.task.class_path",
    "edits": "model.task.init_args.edit",
    "generator": "model.generator.class_path",
    "objective": "model.objective.class_path",
    "grader": "model.grader",
    "filter": "filter.class_path",
    "seed": "model.seed",
}


@dataclass(frozen=True, slots=True)
class GroupsCompared:
    """Several runs in groups, as the templates take them.

    Attributes:
        sentence: What is compared.
        rows: A group each, with where its interval lies.
        notes: What the intervals are over, and the differences in words.
        unlike: What else the runs differ in.
        figure: Groups side by side over rounds.
    """

    sentence: str
    rows: Sequence[tuple[GroupRow, charts.Interval | None]]
    notes: Sequence[str]
    unlike: Sequence[str]
    figure: charts.Trend | None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A run as the templates take it.

    Attributes:
        id: Its anchor.
        run: What was measured.
        sentence: What came out.
        about: Settings at a glance, by name.
        advice: Warnings.
        chart: Its accuracy; over rounds, or of its first test.
        others: The charts of further tests, by the journal's name.
        trend: Rewards over rounds.
        strips: Rewards within contexts.
        more: What its task adds below the accuracy table.
        notes: What was changed or limited.
        retained: Retention matrices in a table, where there are several.
        costs: Hours and dollars of its rounds; None where no time was measured.
        cost_notes: What these are.
        documents: What `seal adapt` asked about them, without an adapter and with it.
        settings: Settings that differ from the defaults.
        config: All settings, as YAML.
    """

    id: str
    run: MeasuredRun
    sentence: str
    about: Mapping[str, str]
    advice: Sequence[Advice]
    chart: Sequence[charts.Interval]
    others: Mapping[str, Sequence[charts.Interval]]
    trend: charts.Trend | None
    strips: charts.Strips | None
    more: Sequence[Table]
    notes: Sequence[str]
    retained: Table | None
    costs: Table | None
    cost_notes: Sequence[str]
    documents: Sequence[DocumentRow]
    measured_by: str
    settings: Mapping[str, str]
    config: str


def compare(runs: Sequence[MeasuredRun], scale: charts.Scale) -> GroupsCompared:
    groups = group_runs([run.run for run in runs])
    rows = rows_of(groups)
    keys = list(groups[0].settings)
    more = f" and {len(keys) - DIFFERING} more" if len(keys) > DIFFERING else ""
    by = f", which differ in {shortened(', '.join(keys[:DIFFERING]), VALUE)}{more}" if keys else ""
    several = f" in {counted(len(groups), 'group')}{by}. Runs of a group differ only in their seed"
    return GroupsCompared(
        sentence=f"{counted(len(runs), 'run')}{several if len(groups) < len(runs) else by}.",
        rows=[(row, charts.level_interval(row.last, scale) if row.last else None) for row in rows],
        notes=notes_of(rows),
        unlike=differences_of(runs),
        figure=figure_of(groups),
    )


def chapter_of(anchor: str, run: MeasuredRun, scale: charts.Scale, prices: Prices) -> Chapter:
    costs = costs_of(run.run, prices)
    settings = run.run.settings or {}
    shown = next((rows for rows in tables_of(run) if rows), [])  # over its rounds, else of its first test
    about = {name: plain(value) for name, key in ABOUT.items() if (value := lookup(run.run.config, key)) is not None}
    if kinds := lookup(run.run.config, "model.task.kinds"):  # in place of `edit`
        about["edits"] = plain(kinds)
    return Chapter(
        id=anchor,
        run=run,
        sentence=sentence_of(run),
        about={**({"best policy": shortened(run.best, CELL)} if run.best else {}), **about},
        advice=advise(run),
        chart=charts.intervals(shown, scale),
        others={n: charts.intervals(rows, scale) for n, rows in run.other_tables.items() if rows is not shown},
        trend=charts.trend_of([run]),
        strips=charts.strips_of(run.rounds, run.titles),
        more=run.run.results.tables if run.run.results else (),
        notes=[note for note in run.run.results.notes if not note.startswith(MISSING)] if run.run.results else (),
        retained=summary_table(run.run.matrices) if len(run.run.matrices) > 1 else None,
        costs=costs_table(costs, prices),
        cost_notes=cost_notes(costs, prices),
        documents=(documents := documents_of(run.run.adapters)),
        measured_by=measured_by(documents, run.run.adapters),
        settings={key: shortened(plain(value), VALUE) for key, value in flat(settings).items()},
        config=shortened(yaml.safe_dump(dict(run.run.config), sort_keys=False, allow_unicode=True), CONFIG)
        if run.run.config
        else "",
    )


def tables_of(run: MeasuredRun) -> list[Sequence[AccuracyRow]]:
    return [run.accuracy, *run.other_tables.values()]


def differing(runs: Sequence[MeasuredRun]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, with each one's value; places on disk are no settings."""
    found = [flat(run.run.config) for run in runs]
    keys = dict.fromkeys(key for config in found for key in config)
    return [
        (key, [shortened(plain(config[key]), VALUE) if key in config else "–" for config in found])
        for key in keys
        if len({json.dumps(config.get(key), default=str) for config in found}) > 1
        and not key.endswith("default_root_dir")
    ]


# -- in words ----------------------------------------------------------------------------------------------------------


def sentence_of(run: MeasuredRun) -> str:
    """What came out, in one sentence."""
    if run.state == "begun":
        return "This run has only begun: no unit of work is finished yet. Make the report again in a while."
    if run.run.adapters and (said := _adapted(documents_of(run.run.adapters), run.run.adapters[0].skill)):
        return said
    adapted = "with the adapters of a generator" if run.generates else "after adapting to its own self-edits"
    edit = "generated adapter" if run.generates else "self-edit"
    if len(run.edits) > 1 and run.base:
        last, so_far = run.edits[-1], "" if run.edits[-1].contexts >= run.edits[0].contexts else ", so far"
        return (
            f"On {counted(run.base.contexts, 'held-out context')}, the model answers {pct(run.base.accuracy)} of the "
            f"queries by itself, {pct(run.edits[0].accuracy)} {adapted}, and "
            f"{_around(last)} {last.name.removeprefix('edits ')}{so_far}."
        )
    for rows in (run.accuracy, *run.other_tables.values()):
        named = {row.name.partition(" ")[0]: row for row in rows}
        if "base" in named and "edits" in named:
            base, edits = named["base"], named["edits"]
            return (
                f"On {counted(base.contexts, 'held-out context')}, the model answers {pct(base.accuracy)} of the "
                f"queries by itself and {_around(edits)} {adapted}."
            )
    if run.rounds:
        found = run.rounds[-1].figures
        if run.unasked:
            return (
                f"{counted(found.edits, edit)} about {counted(found.contexts, 'context')}; no query was asked, "
                "so there are no accuracies and no rewards."
            )
        return (
            f"Over {counted(found.edits, edit)} about {counted(found.contexts, 'context')}, accuracy is "
            f"{pct(found.baseline[0])} before adapting and {pct(found.score[0])} after; the best edit of each context "
            f"reaches {pct(found.best)}."
        )
    if run.run.matrices:
        matrix = run.run.matrices[0]
        learnt, sequences = counted(len(matrix.mean) - 1, "context"), counted(matrix.sequences, "sequence")
        return (
            f"After learning {learnt} one after another ({sequences}), the model answers {pct(matrix.last_row)} of all "
            f"their queries. Right after each was learnt it was {pct(matrix.learnt)}, so {pct(matrix.forgetting)} was "
            "forgotten."
        )
    return "Passages and written edits only: this run has no self-edits yet."


def _adapted(documents: Sequence[DocumentRow], skill: str) -> str:
    """What adapters that stay came to, with a skill vector where there is one; "" where nothing was asked."""
    if not documents:
        return ""
    each = [row.each for row in documents if row.each is not None]
    together = [row.together for row in documents if row.together is not None]
    ends = [f"{pct(fmean(each))} with an adapter each"] if each else []
    ends += [f"{pct(fmean(together))} with one adapter for all"] if together else []
    opened = [row.open_book for row in documents if row.open_book is not None]
    ends += [f"{pct(fmean(opened))} with the document in view"] if opened else []
    return (
        f"On {counted(len(documents), 'document')} with queries, the model answers "
        f"{pct(fmean(row.before for row in documents))} by itself, and {', '.join(ends)}"
        f"{f', to which {plain(skill)} was added' if skill else ''}."
    )


def _around(row: AccuracyRow) -> str:
    around = "" if row.low is None or row.high is None else f" ({100 * row.low:.1f} – {pct(row.high)})"
    return f"{pct(row.accuracy)}{around}"


def pct(share: float) -> str:
    """With a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def row_name(row: AccuracyRow) -> str:
    """A row of the accuracy table in words that need no legend."""
    known = {
        "base": "the model by itself",
        "passage": "trained on the passage alone",
        "written": "trained on edits in the data",
        "edits": "own edits",
    }
    return known.get(row.name, row.name.replace("edits", "own edits", 1))
