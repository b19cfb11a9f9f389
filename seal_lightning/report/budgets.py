"""Budget curves: what adapters of `seal adapt` answer after so many tokens, by what wrote the texts they learnt.

Runs that differ in the number of edits, or in how many are kept, are points of one curve; whatever else they differ in,
but for the seed, parts the curves. Only adapters of single documents count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.report import charts
from seal_lightning.report.adapted import ALL
from seal_lightning.report.groups import PLACES
from seal_lightning.report.measure import MeasuredRun
from seal_lightning.report.read import flat, lookup, plain
from seal_lightning.results.averages import Bounds, interval
from seal_lightning.results.diversity import Diversity, mean_diversity

EDITS = "model.e_step.edits"
SIZES = (EDITS, "keep", "model.seed", "documents", "resume")  # settings that part no curves
NAMED = 3  # settings in a curve's name


@dataclass(frozen=True, slots=True)
class Budget:
    """A point of a curve: one run.

    Attributes:
        writer: The settings that part its curve from others.
        run: Name of the run.
        edits: Edits of each passage that were written; None where that is not known.
        tokens: Tokens that the adapter of a document was trained on, over all epochs, on average.
        accuracy: Mean over documents.
        interval: Its 95 % interval over documents.
        documents: How many were asked about.
        diversity: How different the edits of a passage are, on average; None where no passage has two.
    """

    writer: str
    run: str
    edits: int | None
    tokens: float
    accuracy: float
    interval: Bounds
    documents: int
    diversity: Diversity | None


@dataclass(frozen=True, slots=True)
class Budgets:
    """The curves as the templates take them."""

    rows: tuple[Budget, ...]
    figure: charts.Trend


def budgets_of(runs: Sequence[MeasuredRun]) -> Budgets | None:
    """The curves of several runs; None where no two of them are points of one."""
    asked = [run for run in runs if any(adapter.asked and adapter.name != ALL for adapter in run.run.adapters)]
    settings = [flat(run.run.config) for run in asked]
    names = dict.fromkeys(name for each in settings for name in each)
    parting = [
        name
        for name in names
        if not name.startswith((*PLACES, *SIZES)) and len({plain(each.get(name)) for each in settings}) > 1
    ]
    rows = [_budget(run, _writer(each, parting)) for run, each in zip(asked, settings, strict=True)]
    rows.sort(key=lambda row: (row.writer, row.tokens))
    curves = {row.writer: [one for one in rows if one.writer == row.writer] for row in rows}
    if all(len({one.tokens for one in curve}) < 2 for curve in curves.values()):
        return None
    points = {
        name: [(one.tokens, one.accuracy, one.interval[0], one.interval[1]) for one in curve]
        for name, curve in curves.items()
    }
    return Budgets(tuple(rows), charts.curves_over(points))


def _writer(settings: dict[str, object], parting: Sequence[str]) -> str:
    given = [(name, value) for name in parting if (value := settings.get(name)) is not None]
    return ", ".join(f"{name.rpartition('.')[2]} {plain(value)}" for name, value in given[:NAMED]) or "as by default"


def _budget(run: MeasuredRun, writer: str) -> Budget:
    adapters = [adapter for adapter in run.run.adapters if adapter.asked and adapter.name != ALL]
    accuracies = [one.after for adapter in adapters for one in adapter.asked]
    edits = lookup(run.run.config, EDITS)
    return Budget(
        writer=writer,
        run=run.run.name,
        edits=edits if isinstance(edits, int) else None,
        tokens=fmean(adapter.tokens for adapter in adapters),
        accuracy=fmean(accuracies),
        interval=interval(accuracies),
        documents=len(accuracies),
        diversity=mean_diversity(found.diversity for found in run.rounds if found.diversity is not None),
    )
