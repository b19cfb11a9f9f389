"""What came out of a run, in one sentence, and what the rows of its tables are called."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from seal_lightning.report.adapted import DocumentRow, documents_of
from seal_lightning.report.measure import MeasuredRun
from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.results.retention import RetentionMatrix
from seal_lightning.text.plural import counted


def sentence_of(run: MeasuredRun) -> str:
    """What came out, in one sentence."""
    if run.state == "begun":
        return "This run has only begun: no unit of work is finished yet. Make the report again in a while."
    if run.run.adapters and (said := _adapted(documents_of(run.run.adapters))):
        return said
    if len(run.edits) > 1 and run.base:
        last, so_far = run.edits[-1], "" if _whole(run) else ", so far"
        return (
            f"On {counted(run.base.contexts, 'held-out context')}, the model answers {pct(run.base.accuracy)} of the "
            f"queries by itself, {pct(run.edits[0].accuracy)} after adapting to its own self-edits, and "
            f"{_around(last)} {last.name.removeprefix('edits ')}{so_far}."
        )
    for rows in (run.accuracy, *run.other_tables.values()):
        named = {row.name.partition(" ")[0]: row for row in rows}
        if "base" in named and "edits" in named:
            base, edits = named["base"], named["edits"]
            return (
                f"On {counted(base.contexts, 'held-out context')}, the model answers {pct(base.accuracy)} of the "
                f"queries by itself and {_around(edits)} after adapting to its own self-edits."
            )
    if run.rounds:
        found = run.rounds[-1].figures
        if run.unasked:
            return (
                f"{counted(found.edits, 'self-edit')} about {counted(found.contexts, 'context')}; no query was asked, "
                "so there are no accuracies and no rewards."
            )
        return (
            f"Over {counted(found.edits, 'self-edit')} about {counted(found.contexts, 'context')}, accuracy is "
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
        f"On {counted(len(documents), 'document')} with queries, the model answers "
        f"{pct(fmean(row.before for row in documents))} by itself, and {', '.join(ends)}."
    )


def _retained(matrix: RetentionMatrix) -> str:
    learnt = len(matrix.mean) - 1
    return (
        f"After learning {counted(learnt, 'context')} one after another ({counted(matrix.sequences, 'sequence')}), the "
        f"model answers {pct(matrix.last_row)} of all their queries. Right after each was learnt it was "
        f"{pct(matrix.learnt)}, so {pct(matrix.forgetting)} was forgotten."
    )


def _whole(run: MeasuredRun) -> bool:
    """Whether the last validation asked as many contexts as the first."""
    return run.edits[-1].contexts >= run.edits[0].contexts


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
