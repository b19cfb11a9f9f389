"""The SEAL authors' evaluations of continued pre-training: one model that learnt many contexts, and its answers.

A file (`per_question`, plain or .gz) has one verdict a query with the trained model, and in some files one without. It
names no contexts and holds no edits, so nothing can be chosen from it; what it has are accuracies (arXiv 2506.10943,
section 4.2, and the results of August 2025, for which all weights were trained).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from seal_lightning.files.rows import Row, read_rows
from seal_lightning.records.official import DIGITS
from seal_lightning.results.table import Table, to_markdown

# Under `metrics`, and what is computed.
PUBLISHED = {"baseline_accuracy": "before", "adapter_accuracy": "after", "adapter_gain": "gain"}
COUNTS = ("n_articles", "k_completions", "train_sequences")


@dataclass(frozen=True, slots=True)
class ContinuedRun:
    """One evaluation.

    Attributes:
        name: The file's name.
        model: The model that was trained, as the file names it.
        contexts: How many contexts it learnt; None where the file does not say, as with the next two.
        edits: Edits of each context.
        sequences: Training sequences.
        queries: How many it was asked.
        before: Share answered right without the training; None where that was not measured.
        after: The same after it.
        published: The file's own figures, each beside what its verdicts give.
    """

    name: str
    model: str
    contexts: int | None
    edits: int | None
    sequences: int | None
    queries: int
    before: float | None
    after: float
    published: Mapping[str, tuple[float, float]]


def read_continued(path: Path) -> ContinuedRun | None:
    """Read such a file; None where it is of another form.

    Raises:
        DataError: The file cannot be read, or a field of it cannot be used.
    """
    rows = read_rows(path)
    row = rows[0]
    if len(rows) > 1 or "per_question" not in row.values:
        return None
    inside = _inside(row, "per_question")
    after = _share(inside, "adapter_correct")
    before = None if inside.values.get("baseline_correct") is None else _share(inside, "baseline_correct")
    queries = len(inside.list("adapter_correct"))
    if before is not None and len(inside.list("baseline_correct")) != queries:
        got = f"{len(inside.list('baseline_correct'))} beside {queries} of adapter_correct"
        raise inside.error("baseline_correct", expected="a verdict for each query", got=got, advice="write both again")
    contexts, edits, sequences = (_count(row, name) for name in COUNTS)
    figures = _inside(row, "metrics").values if row.values.get("metrics") is not None else {}
    gain = None if before is None else round(after - before, DIGITS)
    computed = {"before": before, "after": after, "gain": gain}
    return ContinuedRun(
        name=re.sub(r"\.json(\.gz)?$", "", path.name),
        model=row.text("model") if "model" in row.values else "",
        contexts=contexts,
        edits=edits,
        sequences=sequences,
        queries=queries,
        before=before,
        after=after,
        published={
            name: (float(figures[name]), value)
            for name, kind in PUBLISHED.items()
            if isinstance(figures.get(name), int | float) and (value := computed[kind]) is not None
        },
    )


def render_continued(runs: Sequence[ContinuedRun]) -> str:
    """A table in Markdown: what each model learnt, and the share of queries that it then answers."""
    header = ("continued pre-training", "contexts", "edits of each", "sequences", "queries", "before", "after")
    rows = tuple(
        (
            run.name,
            *("" if count is None else f"{count:,}" for count in (run.contexts, run.edits, run.sequences)),
            f"{run.queries:,}",
            "" if run.before is None else f"{run.before:.1%}",
            f"{run.after:.1%}",
        )
        for run in runs
    )
    return to_markdown(Table("", header, rows))


def _inside(row: Row, field: str) -> Row:
    value = row.values.get(field)
    if not isinstance(value, Mapping):
        raise row.error(field, expected="an object", got=row.got(field), advice="name a file of the authors' run")
    return Row(row.file, row.place, value, f"{row.within}{field}.")


def _share(row: Row, field: str) -> float:
    """The mean of a list of verdicts."""
    verdicts = row.list(field)
    if not verdicts:
        raise row.error(field, expected="at least one verdict", got="an empty list", advice="write the file again")
    scores = []
    for at, verdict in enumerate(verdicts):
        if not isinstance(verdict, bool | int | float) or not 0 <= verdict <= 1:
            got = repr(verdict)[:40]
            raise row.error(f"{field}[{at}]", expected="true, false or a score", got=got, advice="grade the answer")
        scores.append(float(verdict))
    return round(fmean(scores), DIGITS)


def _count(row: Row, field: str) -> int | None:
    value = row.values.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise row.error(field, expected="a whole number from 0", got=row.got(field), advice="correct it")
    return value
