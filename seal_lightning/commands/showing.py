"""How the answers of a library are shown: columns side by side that fill while they are written, lines, or JSON.

Everything that a model wrote is made visible first: nothing in it acts on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from seal_lightning.library.manifest import LibraryEntry, Manifest
from seal_lightning.progress.screen import plain_console, redrawn
from seal_lightning.text.escaping import single_line, visible, visible_json

if TYPE_CHECKING:
    from seal_lightning.library.asking import LibraryAnswer, Way

HEADINGS: Mapping[str, str] = MappingProxyType(
    {
        "without_adapter": "without adapter",
        "with_adapter": "with adapter",
        "open_book": "with the document in the context",
    }
)
NOTHING = "–"


class Shown:
    """One question's answers in a terminal.

    Args:
        ways: The columns.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = ways
        self._console = plain_console()
        self._live = redrawn(self._console, self._table({}))

    def __enter__(self) -> Shown:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def hear(self, text: str) -> None:
        """Show the answer with the adapter as far as it has come."""
        self._live.update(self._table({"with_adapter": f"{text} …"}), refresh=True)

    def finish(self, answer: LibraryAnswer) -> None:
        """Show all answers, and where they come from."""
        self._live.stop()
        self._console.print(self._table(answers_of(answer, self._ways)))
        for line in origin_lines(answer):
            self._console.print(Text(single_line(line), style="dim"), soft_wrap=True)

    def _table(self, texts: Mapping[Way, str | None]) -> Table:
        table = Table(show_edge=False, pad_edge=False, expand=False)
        for way in self._ways:
            table.add_column(HEADINGS[way], overflow="fold", min_width=len(HEADINGS[way]))
        table.add_row(*(Text(visible(texts.get(way, "…") or NOTHING)) for way in self._ways))
        return table


def answers_of(answer: LibraryAnswer, ways: Sequence[Way]) -> dict[Way, str | None]:
    """The answers that were asked for."""
    given: dict[Way, str | None] = {
        "without_adapter": answer.without_adapter,
        "with_adapter": answer.with_adapter,
        "open_book": answer.open_book,
    }
    return {way: text for way, text in given.items() if way in ways or (text is not None and not answer.documents)}


def plain_lines(answer: LibraryAnswer, ways: Sequence[Way]) -> Iterator[str]:
    """A line for each answer, and where they come from."""
    for way, text in answers_of(answer, ways).items():
        yield single_line(f"{HEADINGS[way]}: {NOTHING if text is None else text}")
    yield from map(single_line, origin_lines(answer))


def origin_lines(answer: LibraryAnswer) -> Iterator[str]:
    """Which documents the answers come from, with scores; or that none fits."""
    route, weights = answer.route, dict(answer.adapters)
    used = ", ".join(adapter.rpartition("/")[2] for adapter in weights) or "none"
    if not answer.documents:
        nearest = (
            f"the nearest scores {route.matches[0].score:.2f} and fits {route.fit:.2f}" if route.matches else "none"
        )
        yield f"none of the documents fits ({nearest})"
    for place, entry in enumerate(answer.documents):
        match = route.matches[place]
        score = f", score {match.score:.2f}" if match.score else ""
        fit = f", fit {route.fit:.2f}" if match.score and not place else ""
        weight = f", weight {weights[entry.adapter]:.2f}" if entry.adapter in weights and len(weights) > 1 else ""
        yield f"from: {_name(entry)}{score}{fit}{weight}"
    yield f"adapter: {used}; {answer.seconds:.1f} s"


def as_json(answer: LibraryAnswer) -> str:
    """One question as a line of JSON."""
    weights = dict(answer.adapters)
    row = {
        "question": answer.question,
        "fits": bool(answer.documents),
        "fit": round(answer.route.fit, 4),
        "documents": [
            {
                "id": entry.id,
                "title": entry.title,
                "source": entry.source,
                "score": round(match.score, 4),
                "share": round(match.share, 4),
                "passage": match.passage,
            }
            for entry, match in zip(answer.documents, answer.route.matches, strict=False)
        ],
        "adapters": {adapter.rpartition("/")[2]: round(weight, 4) for adapter, weight in weights.items()},
        "without_adapter": answer.without_adapter,
        "with_adapter": answer.with_adapter,
        "open_book": answer.open_book,
        "seconds": round(answer.seconds, 3),
    }
    return visible_json(json.dumps(row, ensure_ascii=False))


def document_lines(manifest: Manifest, *, as_rows: bool) -> Iterator[str]:
    """What a library holds: its documents with status and accuracy, then the adapter of all of them."""
    for entry in manifest.documents:
        if as_rows:
            row = {"id": entry.id, "title": entry.title, "source": entry.source, "status": entry.status}
            yield visible_json(json.dumps({**row, "adapter": entry.adapter}, ensure_ascii=False))
            continue
        scores = entry.scores
        learnt = f"; {scores.before:.3f} → {scores.after:.3f}" if None not in (scores.before, scores.after) else ""
        why = f" ({entry.reason})" if entry.reason else ""
        yield single_line(f"{_name(entry)}: {entry.status}{why}{learnt}")
    if manifest.together is not None and not as_rows:
        yield f"all: {manifest.together.status}; the adapter of {len(manifest.together.documents)} documents"


def _name(entry: LibraryEntry) -> str:
    return f"{entry.title} ({entry.source})" if entry.title else entry.source
