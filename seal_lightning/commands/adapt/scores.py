"""How well documents are known, before and after: answers by document, and their mean with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.e_step.closed_book import Answered
from seal_lightning.results.averages import interval

Measured = Mapping[str, Answered]  # by document; those without queries are not in it


@dataclass(frozen=True, slots=True)
class Score:
    """Mean accuracy over documents, each of which counts alike, with its 95 % interval where there are enough."""

    mean: float
    low: float | None
    high: float | None
    documents: int


def score_of(measured: Measured, documents: Sequence[str]) -> Score:
    """Over the documents of these ids, at least one."""
    means = [measured[name].accuracy for name in documents]
    return Score(fmean(means), *interval(means), len(means))
