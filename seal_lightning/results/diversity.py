"""How different the self-edits of a context are: 0 where all are the same text, 1 where no two share a character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean

from rapidfuzz.distance import Indel

from seal_lightning.types import RolloutGroup


def diversity(texts: Sequence[str]) -> float | None:
    """The mean distance of all pairs of texts; None of fewer than two.

    The distance of a pair is the normalized indel distance (insertions and deletions that turn one into the other, by
    the characters of both), from 0 to 1: it needs no words, so that it means the same in every script.
    """
    pairs = list(combinations(texts, 2))
    return fmean(Indel.normalized_distance(one, other) for one, other in pairs) if pairs else None


def diversity_of(groups: Iterable[RolloutGroup]) -> float | None:
    """The diversity of each context's usable edits, averaged over contexts with two or more; None without any."""
    usable = [[one.text for one in group.outcomes if one.reward is not None] for group in groups]
    found = [value for texts in usable if (value := diversity(texts)) is not None]
    return fmean(found) if found else None
