"""Which queries choose among self-edits, and which measure the adapters (`--held_out`).

A query that has chosen the edits that an adapter learns from flatters it. So a share of every document's queries is
held out of the choice: passages have the others, and only those held out are asked before, after and open-book.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.data.documents import Document, Documents
from seal_lightning.seeding import derive_seed
from seal_lightning.text.plural import counted
from seal_lightning.types import Context


def set_apart(read: Documents, choice: EditChoice, *, share: float, seed: int) -> Documents:
    """The documents with the queries that measure; their passages have those that choose.

    At least one query of a document measures, so one that has a single query has none to choose by. Where the queries
    of the data choose nothing, all of them measure; with a share of 0 all of them do both.

    Args:
        read: The documents with all their queries.
        choice: How self-edits are chosen.
        share: The share of a document's queries that is held out of the choice, from 0 to 1.
        seed: The run's seed.
    """
    if not choice.by_data:
        return read
    return replace(read, documents=tuple(_apart(document, share, seed) for document in read.documents))


def _apart(document: Document, share: float, seed: int) -> Document:
    queries = document.context.queries
    if not share or not queries:
        return replace(document, choosing=queries)
    placed = {_folded(query.question) for passage in document.passages for query in passage.queries}
    order = sorted(
        {_folded(query.question) for query in queries},
        key=lambda question: (
            question in placed,
            derive_seed("held out", seed, question),
        ),
    )  # what is in no passage cannot choose, so it measures first
    held_out = {*order[: max(1, math.ceil(share * len(order) - 1e-9))], *(one for one in order if one not in placed)}

    def those(context: Context, *, measure: bool) -> Context:
        kept = tuple(query for query in context.queries if (_folded(query.question) in held_out) is measure)
        return replace(context, queries=kept)

    return replace(
        document,
        context=those(document.context, measure=True),
        passages=tuple(those(passage, measure=False) for passage in document.passages),
        choosing=those(document.context, measure=False).queries,
    )


def _folded(question: str) -> str:
    return " ".join(question.lower().split())


def said_of(documents: Sequence[Document]) -> str:
    """How many queries measure and how many choose, in words; empty without queries."""
    measuring = sum(len(document.context.queries) for document in documents)
    choosing = sum(len(document.choosing) for document in documents)
    if not measuring:
        return ""
    if not choosing:
        return f"{counted(measuring, 'query')}, all of which measure; none chooses self-edits"
    if measures_what_chose(documents):
        return f"{counted(measuring, 'query')}, which choose self-edits and measure, too: the accuracy after flatters"
    return f"{counted(measuring, 'query')} to measure, {counted(choosing, 'other')} to choose self-edits"


def measures_what_chose(documents: Sequence[Document]) -> bool:
    """Whether queries that chose self-edits measure the adapters, too."""
    return any(set(document.choosing) & set(document.context.queries) for document in documents)
