"""From measured runs to the two files: one HTML page and one Markdown page, both of templates beside this file.

Every text of a run is escaped without a template having to ask for it: values of expressions pass through `_shown`
(HTML) or `_flat` (Markdown), and autoescape is on. The page holds no script and asks for nothing: its policy (a CSP in
a meta element) allows its one style sheet by its digest and nothing else, so that what slips through could not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seal_lightning import __version__
from seal_lightning.report import charts
from seal_lightning.report.adapted import DocumentRow, documents_of
from seal_lightning.report.advice import Advice, advise
from seal_lightning.report.alike import differences_of
from seal_lightning.report.group_tables import (
    GroupRow,
    figure_of,
    label_of,
    notes_of,
    rows_of,
    say_runs,
    short_contrast,
)
from seal_lightning.report.groups import group_runs
from seal_lightning.report.measure import Measured, measure
from seal_lightning.report.read import Run
from seal_lightning.report.settings import flat, lookup, plain
from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.results.averages import say_interval
from seal_lightning.results.left_out import MISSING, render_left_out
from seal_lightning.results.retention import RetentionMatrix, heads, summary_table
from seal_lightning.results.table import Table, text_of, to_markdown
from seal_lightning.results.usage import render_usage
from seal_lightning.text.escaping import markdown_cell, shortened, visible

CONFIG = 60_000  # characters of a configuration that are shown
CELL = 300  # of a text in a Markdown table
VALUE = 200  # of a setting
TITLES = 3  # runs that a title names
DIFFERING = 3  # settings in which runs differ, in the first sentence; the table of them has all
ABOUT = {  # what a run is, at a glance
    "model": "model.source.name",
    "task": "model.task.class_path",
    "edits": "model.task.init_args.edit",
    "grader": "model.grader",
    "filter": "filter.class_path",
    "seed": "model.seed",
}


@dataclass(frozen=True, slots=True)
class Comparison:
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
    figure: charts.GroupsFigure | None


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
        documents: What `seal adapt` asked about them, without an adapter and with it.
        settings: That differ from the defaults.
        config: All of them, as YAML.
    """

    id: str
    run: Measured
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
    documents: Sequence[DocumentRow]
    settings: Mapping[str, str]
    config: str


def render(runs: Sequence[Run], *, now: float) -> tuple[str, str]:
    """The HTML and the Markdown page about at least one run.

    Args:
        runs: In the order of the page.
        now: Seconds since the epoch.
    """
    names = Counter(run.name for run in runs)
    measured = [measure(run if names[run.name] == 1 else replace(run, name=run.source)) for run in runs]
    scale = charts.in_percent(
        charts.scale_over(row.high or row.accuracy for run in measured for rows in _tables(run) for row in rows)
    )
    chapters = [_chapter(f"run-{place}", run, scale) for place, run in enumerate(measured, start=1)]
    content = {
        "chapters": chapters,
        "several": len(chapters) > 1,
        "scale": scale,
        "title": _title(measured),
        "trend": charts.trend_of(measured) if len(measured) <= len(charts.SHAPES) else None,
        "comparison": _comparison(measured, scale) if len(chapters) > 1 else None,
        "differing": _differing(measured),
        "now": _moment(now),
        "version": __version__,
    }
    style = files("seal_lightning.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    html = _environment(_shown).get_template("report.html.j2")
    markdown = _environment(_flat).get_template("report.md.j2")
    return html.render(content, style=Markup(style), digest=digest), markdown.render(content).strip() + "\n"


def render_svg(figure: charts.GroupsFigure) -> str:
    """A figure of groups as a file of its own."""
    return _environment(_shown).get_template("groups.svg.j2").render(figure=figure, tones=charts.TONES).strip() + "\n"


def _title(runs: Sequence[Measured]) -> str:
    names = [shortened(run.run.name, 60) for run in runs]
    return " · ".join(names) if len(names) <= TITLES else f"{names[0]} and {len(names) - 1} more runs"


@cache
def _environment(finalize: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("seal_lightning.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "pct": pct,
        "number": lambda value: "–" if value is None else f"{value:.3f}",
        "points": lambda value: f"{100 * value:+.1f}".replace("-", "−"),
        "count": lambda value: f"{value:,.0f}",
        "duration": duration,
        "moment": _moment,
        "visible": visible,
        "shortened": shortened,
        "name": row_name,
        "heads": heads,
        "text_of": text_of,
        "table": _table_of,
        "cell_text": cell_text,
    }
    environment.globals |= {
        "box_of": charts.box_of,
        "scale_over": charts.scale_over,
        "level": charts.level,
        "label_of": label_of,
        "say_runs": say_runs,
        "short_contrast": short_contrast,
        "render_left_out": render_left_out,
        "tones": charts.TONES,
        "render_usage": render_usage,
        "say_interval": say_interval,
    }
    return environment


def _shown(value: Any) -> Any:
    """What an expression of the HTML template prints; autoescape does the rest."""
    return value if isinstance(value, Markup) else visible(str(value))


def _flat(value: Any) -> Any:
    """What an expression of the Markdown template prints."""
    return value if isinstance(value, Markup) else Markup(markdown_cell(visible(str(value)), CELL))


def _table_of(table: Table) -> Markup:
    """A table of the Markdown page."""
    return Markup(to_markdown(table, cell=partial(markdown_cell, longest=CELL)))


# -- words -------------------------------------------------------------------------------------------------------------


def sentence_of(run: Measured) -> str:
    """What came out, in one sentence."""
    if run.state == "begun":
        return "This run has only begun: no unit of work is finished yet. Make the report again in a while."
    if run.run.adapters and (said := _adapted(documents_of(run.run.adapters))):
        return said
    if len(run.edits) > 1 and run.base:
        last, so_far = run.edits[-1], "" if _whole(run) else ", so far"
        return (
            f"On {_count(run.base.contexts, 'held-out context')}, the model answers {pct(run.base.accuracy)} of the "
            f"queries by itself, {pct(run.edits[0].accuracy)} after adapting to its own self-edits, and "
            f"{_around(last)} {last.name.removeprefix('edits ')}{so_far}."
        )
    for rows in (run.accuracy, *run.other_tables.values()):
        named = {row.name.partition(" ")[0]: row for row in rows}
        if "base" in named and "edits" in named:
            base, edits = named["base"], named["edits"]
            return (
                f"On {_count(base.contexts, 'held-out context')}, the model answers {pct(base.accuracy)} of the "
                f"queries by itself and {_around(edits)} after adapting to its own self-edits."
            )
    if run.rounds:
        found = run.rounds[-1].figures
        if run.unasked:
            return (
                f"{_count(found.edits, 'self-edit')} about {_count(found.contexts, 'context')}; no query was asked, so "
                "there are no accuracies and no rewards."
            )
        return (
            f"Over {_count(found.edits, 'self-edit')} about {_count(found.contexts, 'context')}, accuracy is "
            f"{pct(found.baseline[0])} before adapting and {pct(found.score[0])} after; the best edit of each context "
            f"reaches {pct(found.best)}."
        )
    if run.run.matrices:
        return _retained(run.run.matrices[0])
    return "Passages and written edits only: this run has no self-edits yet."


def _adapted(documents: Sequence[DocumentRow]) -> str:
    """What adapters that stay came to; "" where nothing was asked."""
    if not documents:
        return ""
    each = [row.each for row in documents if row.each is not None]
    together = [row.together for row in documents if row.together is not None]
    ends = [f"{pct(fmean(each))} with an adapter each"] if each else []
    ends += [f"{pct(fmean(together))} with one adapter for all"] if together else []
    return (
        f"On {_count(len(documents), 'document')} with queries, the model answers "
        f"{pct(fmean(row.before for row in documents))} by itself, and {', '.join(ends)}."
    )


def _retained(matrix: RetentionMatrix) -> str:
    learnt = len(matrix.mean) - 1
    return (
        f"After learning {_count(learnt, 'context')} one after another ({_count(matrix.sequences, 'sequence')}), the "
        f"model answers {pct(matrix.last_row)} of all their queries. Right after each was learnt it was "
        f"{pct(matrix.learnt)}, so {pct(matrix.forgetting)} was forgotten."
    )


def _whole(run: Measured) -> bool:
    """Whether the last validation asked as many contexts as the first."""
    return run.edits[-1].contexts >= run.edits[0].contexts


def _around(row: AccuracyRow) -> str:
    around = "" if row.low is None or row.high is None else f" ({100 * row.low:.1f} – {pct(row.high)})"
    return f"{pct(row.accuracy)}{around}"


def pct(share: float) -> str:
    """With a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def row_name(row: AccuracyRow) -> str:
    """A row of the accuracy table in words that need no legend."""
    known = {
        "base": "the model by itself",
        "passage": "trained on the passage alone",
        "written": "trained on edits in the data",
        "edits": "own edits",
    }
    return known.get(row.name, row.name.replace("edits", "own edits", 1))


def duration(seconds: float) -> str:
    """Seconds in the largest units that say enough."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def cell_text(matrix: RetentionMatrix, row: int, place: int) -> str:
    """An accuracy in percent, "" where nothing was asked."""
    value = matrix.mean[row][place] if place < len(matrix.mean[row]) else None
    return "" if value is None else f"{100 * value:.0f}"


# -- several runs ------------------------------------------------------------------------------------------------------


def _comparison(runs: Sequence[Measured], scale: charts.Scale) -> Comparison:
    groups = group_runs([run.run for run in runs])
    rows = rows_of(groups)
    keys = list(groups[0].settings)
    more = f" and {len(keys) - DIFFERING} more" if len(keys) > DIFFERING else ""
    by = f", which differ in {shortened(', '.join(keys[:DIFFERING]), VALUE)}{more}" if keys else ""
    several = f" in {_count(len(groups), 'group')}{by}. Runs of a group differ only in their seed"
    return Comparison(
        sentence=f"{_count(len(runs), 'run')}{several if len(groups) < len(runs) else by}.",
        rows=[(row, charts.level_interval(row.last, scale) if row.last else None) for row in rows],
        notes=notes_of(rows),
        unlike=differences_of(runs),
        figure=figure_of(groups),
    )


# -- a run -------------------------------------------------------------------------------------------------------------


def _chapter(anchor: str, run: Measured, scale: charts.Scale) -> Chapter:
    settings = run.run.settings if run.run.settings is not None else {}
    return Chapter(
        id=anchor,
        run=run,
        sentence=sentence_of(run),
        about=_about(run),
        advice=advise(run),
        chart=charts.intervals(_table(run), scale),
        others={n: charts.intervals(rows, scale) for n, rows in run.other_tables.items() if rows is not _table(run)},
        trend=charts.trend_of([run]),
        strips=charts.strips_of(run.rounds, run.titles),
        more=run.run.results.tables if run.run.results else (),
        notes=[note for note in run.run.results.notes if not note.startswith(MISSING)] if run.run.results else (),
        retained=summary_table(run.run.matrices) if len(run.run.matrices) > 1 else None,
        documents=documents_of(run.run.adapters),
        settings={key: shortened(plain(value), VALUE) for key, value in flat(settings).items()},
        config=shortened(yaml.safe_dump(dict(run.run.config), sort_keys=False, allow_unicode=True), CONFIG)
        if run.run.config
        else "",
    )


def _about(run: Measured) -> dict[str, str]:
    """The best policy, and settings at a glance."""
    found = {name: plain(value) for name, key in ABOUT.items() if (value := lookup(run.run.config, key)) is not None}
    return {**({"best policy": shortened(run.best, CELL)} if run.best else {}), **found}


def _tables(run: Measured) -> list[Sequence[AccuracyRow]]:
    return [run.accuracy, *run.other_tables.values()]


def _table(run: Measured) -> Sequence[AccuracyRow]:
    """The accuracy that a run is about: over its rounds, else of its first test."""
    return next((rows for rows in _tables(run) if rows), [])


def _differing(runs: Sequence[Measured]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, with each one's value; places on disk are no settings."""
    found = [flat(run.run.config) for run in runs]
    keys = dict.fromkeys(key for config in found for key in config)
    return [
        (key, [shortened(plain(config[key]), VALUE) if key in config else "–" for config in found])
        for key in keys
        if len({json.dumps(config.get(key), default=str) for config in found}) > 1
        and not key.endswith("default_root_dir")
    ]
