"""The adapters of `seal adapt` as its folder tells of them: what each was asked before and after, and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from seal_lightning.results.accuracy import json_object
from seal_lightning.text.plural import counted

ALL = "all"  # the folder of the adapter that learnt all documents


@dataclass(frozen=True, slots=True)
class AskedDocument:
    """A document and what was answered about it, accuracies in [0, 1].

    Attributes:
        document: Its id.
        title: Its title.
        queries: Number of queries that it was asked.
        before: Without an adapter.
        after: With it.
        open_book: Without an adapter and with the document in view; None where that was not asked.
        chose: Number of queries that chose among its self-edits.
    """

    document: str
    title: str
    queries: int
    before: float
    after: float
    open_book: float | None = None
    chose: int = 0


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """One adapter.

    Attributes:
        name: Name of its folder.
        asked: Documents it was asked about; empty where there were no queries.
        steps: Number of optimizer steps.
        tokens: Tokens trained, over all epochs.
        loss: Mean loss of the last epoch; None where it is not known.
        left_out: What was cut or skipped, counted as in `left_out`.
        learnt: Whether it learnt anything: yes, not certain or no; empty where it was not judged.
        how: How that shows.
        why: Why it learnt nothing; empty where it learnt something.
        advice: What to try then.
        skill: The skill vector that was added to it, in words; empty without one.
        unrelated: Accuracy on unrelated questions without and with it; None where none were asked.
    """

    name: str
    asked: tuple[AskedDocument, ...] = ()
    steps: int = 0
    tokens: int = 0
    loss: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    learnt: str = ""
    how: str = ""
    why: str = ""
    advice: str = ""
    skill: str = ""
    unrelated: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """Its document's title, or what it is."""
        if self.name == ALL:
            return "one for all documents"
        return self.asked[0].title if len(self.asked) == 1 else self.name


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document with what its own adapter answers, and the one for all; None where there is none.

    `open_book` is what the model answers without an adapter and with the document in view.
    """

    title: str
    queries: int
    before: float
    each: float | None
    together: float | None
    open_book: float | None
    chose: int


def read_adapter(path: Path) -> AdapterReport:
    """From its `adaptation.json`; what is missing there or of another kind is left empty."""
    content = json_object(path)
    counts = content.get("left_out")
    said = content.get("learnt")
    verdict = said if isinstance(said, dict) else {}
    loss = content.get("loss")
    return AdapterReport(
        name=path.parent.name,
        asked=tuple(_asked(content.get("measured"))),
        steps=_whole(content.get("steps")),
        tokens=_whole(content.get("trained_tokens")),
        loss=float(loss) if isinstance(loss, int | float) else None,
        left_out={str(name): n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, dict) else {},
        skill=_skill(content.get("skill")),
        unrelated=_accuracies(content.get("unrelated")),
        **{name: str(verdict.get(name, "")) for name in ("learnt", "how", "why", "advice")},
    )


def _skill(content: object) -> str:
    known = content if isinstance(content, dict) else {}
    return f"the skill vector of {known.get('run')} times {known.get('scale')}" if known else ""


def _asked(rows: object) -> Iterator[AskedDocument]:
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and (both := _accuracies(row)):
            name, opened = str(row.get("document", "")), _scores(row.get("open_book"))
            yield AskedDocument(
                document=name,
                title=str(row.get("title") or name),
                queries=len(_scores(row)),
                before=both[0],
                after=both[1],
                open_book=fmean(opened) if opened else None,
                chose=_whole(row.get("chose")),
            )


def _accuracies(row: object) -> tuple[float, float] | None:
    """Before and after; None where one of them is missing."""
    before, after = _scores(row.get("before")) if isinstance(row, dict) else [], _scores(row)
    return (fmean(before), fmean(after)) if before and after else None


def _scores(row: object) -> list[float]:
    scores = row.get("scores") if isinstance(row, dict) else None
    return [float(one) for one in scores if isinstance(one, int | float)] if isinstance(scores, list) else []


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def documents_of(adapters: Sequence[AdapterReport]) -> list[DocumentRow]:
    """What was asked, by document: without an adapter, with its own, with the one for all."""
    each = {one.document: one for adapter in adapters if adapter.name != ALL for one in adapter.asked}
    together = {one.document: one for adapter in adapters if adapter.name == ALL for one in adapter.asked}
    return [
        DocumentRow(
            known.title,
            known.queries,
            known.before,
            each[name].after if name in each else None,
            together[name].after if name in together else None,
            known.open_book,
            known.chose,
        )
        for name, known in (each | together | each).items()
    ]


def measured_by(documents: Sequence[DocumentRow], adapters: Sequence[AdapterReport]) -> str:
    """What the accuracies rest on and what learning has cost, in a sentence or two; empty where nothing was asked."""
    parts = []
    if chose := sum(row.chose for row in documents):
        asked = counted(sum(row.queries for row in documents), "query")
        parts.append(f"{asked} measured; {counted(chose, 'query')} chose the self-edits.")
    if pairs := [adapter.unrelated for adapter in adapters if adapter.unrelated]:
        before, after = (fmean(side) for side in zip(*pairs, strict=True))
        parts.append(
            f"Unrelated questions: accuracy {before:.3f} before and {after:.3f} after, the mean of "
            f"{counted(len(pairs), 'adapter')}."
        )
    return " ".join(parts)
