"""From measured runs to the two files: one HTML page and one Markdown page, both of templates beside this file.

Every text of a run is escaped without a template having to ask for it: values of expressions pass through `_shown`
(HTML) or `_flat` (Markdown), and autoescape is on. The page holds no script and asks for nothing: its policy (a CSP in
a meta element) allows its one style sheet by its digest and nothing else, so that what slips through could not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seal_lightning import __version__
from seal_lightning.progress.screen import duration
from seal_lightning.report import charts
from seal_lightning.report.budgets import budgets_of
from seal_lightning.report.chapters import CELL, chapter_of, compare, differing, pct, row_name, tables_of
from seal_lightning.report.costs import Prices
from seal_lightning.report.group_tables import figure_of, label_of, say_runs, short_contrast
from seal_lightning.report.groups import Group
from seal_lightning.report.heatmap import heat_map
from seal_lightning.report.measure import measure
from seal_lightning.report.read import Run
from seal_lightning.results.averages import say_interval
from seal_lightning.results.left_out import render_left_out
from seal_lightning.results.retention import matrix_table
from seal_lightning.results.table import text_of, to_markdown
from seal_lightning.results.usage import render_usage
from seal_lightning.text.escaping import markdown_cell, shortened, visible

TITLES = 3  # runs that a title names


def render(runs: Sequence[Run], *, now: float, prices: Prices) -> tuple[str, str]:
    """The HTML and the Markdown page about at least one run.

    Args:
        runs: In the order of the page.
        now: Seconds since the epoch.
        prices: What hours and tokens cost.

    Raises:
        ConfigError: The GPU of a run has no price.
    """
    names = Counter(run.name for run in runs)
    measured = [measure(run if names[run.name] == 1 else replace(run, name=run.source)) for run in runs]
    scale = charts.in_percent(
        charts.scale_over(row.high or row.accuracy for run in measured for rows in tables_of(run) for row in rows)
    )
    named = [shortened(run.run.name, 60) for run in measured]
    chapters = [chapter_of(f"run-{place}", run, scale, prices) for place, run in enumerate(measured, start=1)]
    content = {
        "chapters": chapters,
        "several": len(chapters) > 1,
        "scale": scale,
        "title": " · ".join(named) if len(named) <= TITLES else f"{named[0]} and {len(named) - 1} more runs",
        "trend": charts.trend_of(measured) if len(measured) <= len(charts.SHAPES) else None,
        "comparison": compare(measured, scale) if len(chapters) > 1 else None,
        "differing": differing(measured),
        "budgets": budgets_of(measured),
        "now": _moment(now),
        "version": __version__,
    }
    style = files("seal_lightning.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    html = _environment(_shown).get_template("report.html.j2")
    markdown = _environment(_flat).get_template("report.md.j2")
    return html.render(content, style=Markup(style), digest=digest), markdown.render(content).strip() + "\n"


def render_figure(groups: Sequence[Group]) -> str:
    """An SVG file: accuracy with own edits over rounds, groups side by side; "" where there is none."""
    figure = figure_of(groups)
    if figure is None:
        return ""
    return _environment(_shown).get_template("groups.svg.j2").render(figure=figure, tones=charts.TONES).strip() + "\n"


@cache
def _environment(finalize: Callable[[object], str]) -> Environment:
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
        "text_of": text_of,
        "table": lambda table: Markup(to_markdown(table, cell=partial(markdown_cell, longest=CELL))),
    }
    environment.globals |= {
        "scale_over": charts.scale_over,
        "heat_map": lambda matrix: Markup(heat_map([matrix])),
        "matrix_table": matrix_table,
        "label_of": label_of,
        "say_runs": say_runs,
        "short_contrast": short_contrast,
        "render_left_out": render_left_out,
        "tones": charts.TONES,
        "render_usage": render_usage,
        "say_interval": say_interval,
    }
    return environment


def _shown(value: object) -> str:
    """What an expression of the HTML template prints; autoescape does the rest."""
    return value if isinstance(value, Markup) else visible(str(value))


def _flat(value: object) -> str:
    """What an expression of the Markdown template prints."""
    return value if isinstance(value, Markup) else Markup(markdown_cell(visible(str(value)), CELL))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
