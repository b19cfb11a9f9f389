"""How much the self-edits about one context differ: what a trained writer may lose, and what a large budget lives on.

Three figures that see different repeats (survey and names: arXiv 2403.00553): one that compressing all texts together
finds, one of words that come back within and across texts, one of whole texts that are alike. All depend on the texts
alone, never on where or with what else they were written.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import TypeVar

import regex
from rapidfuzz.distance import Indel

from seal_lightning.results.averages import by_context
from seal_lightning.types import Rollout

LEVEL = 9  # of zlib
LONGEST = 4  # words of an n-gram
PAIRED = 64  # texts of which all pairs are compared; of more, those that are spread evenly over them
_Item = TypeVar("_Item")
# In scripts without blanks between words, each character is a word.
_WORD = regex.compile(r"[\p{lb=SA}\p{Han}\p{Hiragana}\p{Katakana}&&[\p{L}\p{M}]]|\w+", regex.V1)


@dataclass(frozen=True, slots=True)
class Diversity:
    """The diversity of several texts.

    Attributes:
        compression: Bytes of all texts joined by how many they are compressed; the larger, the more is repeated.
        distinct: Share of distinct n-grams among all, averaged over n from 1 to 4; 1 if nothing comes back.
        similarity: Mean likeness of two of the texts, from 0 to 1.
    """

    compression: float
    distinct: float
    similarity: float

    @property
    def shown(self) -> str:
        """The figures in a line of a log."""
        return f"compression ratio {self.compression:.2f}, distinct n-grams {self.distinct:.0%}, " + (
            f"similarity {self.similarity:.2f}"
        )


def diversity(texts: Sequence[str]) -> Diversity | None:
    """The diversity of texts about one context; None of fewer than two with something in them."""
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return None
    return Diversity(compression_ratio(texts), distinct_ngrams(texts), self_similarity(texts))


def diversity_by_context(rollouts: Iterable[Rollout]) -> dict[str, Diversity]:
    """The diversity of each context's usable edits, for contexts with two or more."""
    usable = by_context(one for one in rollouts if _is_usable(one) and one.repeat == 0)
    found = {name: diversity([one.text for one in some]) for name, some in usable.items()}
    return {name: each for name, each in found.items() if each is not None}


def tell_diversity(rollouts: Iterable[Rollout]) -> str:
    """The mean figures of a round's contexts, for the log; empty where no context has two usable edits."""
    mean = mean_diversity(diversity_by_context(rollouts).values())
    return f"the edits of a context have {mean.shown}" if mean else ""


def mean_diversity(each: Iterable[Diversity]) -> Diversity | None:
    """The means over contexts; None without any."""
    if not (found := list(each)):
        return None
    return Diversity(
        fmean(one.compression for one in found),
        fmean(one.distinct for one in found),
        fmean(one.similarity for one in found),
    )


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by line breaks, by the bytes that zlib makes of them.

    >>> round(compression_ratio(["Ada ruled."] * 50), 1)
    18.3
    """
    joined = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(joined) / len(zlib.compress(joined, LEVEL))


def distinct_ngrams(texts: Sequence[str]) -> float:
    """The share of distinct ones among all n-grams of words, none across two texts, averaged over n from 1 to 4.

    >>> distinct_ngrams(["Ada ruled.", "ada wrote"])
    0.875
    """
    words = [_WORD.findall(text.casefold()) for text in texts]
    shares = []
    for n in range(1, LONGEST + 1):
        grams = [tuple(some[start : start + n]) for some in words for start in range(len(some) - n + 1)]
        shares += [len(set(grams)) / len(grams)] if grams else []
    return fmean(shares) if shares else 1.0


def self_similarity(texts: Sequence[str]) -> float:
    """The mean similarity of two of the texts."""
    some = [in_order(text) for text in _spread(texts)]
    return fmean(Indel.normalized_similarity(one, other) for one, other in combinations(some, 2))


def similarity(one: str, other: str) -> float:
    """How alike two edits are, from 0 to 1, whatever the order of their lines.

    It is the normalized indel similarity: characters that need no insertion or deletion to turn one into the other, by
    the characters of both. It needs no words, so that it means the same in every script.

    >>> similarity("Ada ruled.\\nHe wrote.", "He wrote.\\nAda ruled."), similarity("ab", "cd")
    (1.0, 0.0)
    """
    return Indel.normalized_similarity(in_order(one), in_order(other))


def in_order(text: str) -> str:
    """The lines of a text, sorted: the same lines in another order teach the same."""
    return "\n".join(sorted(stripped for line in text.splitlines() if (stripped := line.strip())))


def with_similarities(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts, each with the mean similarity of its text to the other usable edits of its context and round.

    What cannot be used, was not written or has no text keeps None.
    """
    groups: dict[tuple[int, str], dict[int, str]] = {}
    for one in filter(_is_usable, rollouts):
        groups.setdefault((one.round, one.context_id), {})[one.edit_index] = in_order(one.text)
    found: dict[tuple[int, str], dict[int, float]] = {}
    for group, texts in groups.items():
        others = _spread(list(texts))
        alike = {index: [other for other in others if other != index] for index in texts}
        found[group] = {
            index: fmean(Indel.normalized_similarity(texts[index], texts[other]) for other in some) if some else 0.0
            for index, some in alike.items()
        }
    return [
        replace(one, similarity=found[one.round, one.context_id][one.edit_index]) if _is_usable(one) else one
        for one in rollouts
    ]


def _is_usable(rollout: Rollout) -> bool:
    """Whether it is a self-edit with a text that could be trained on."""
    return rollout.kind == "edit" and rollout.status != "rejected" and bool(rollout.text.strip())


def _spread(items: Sequence[_Item]) -> list[_Item]:
    """As many of the items as are compared in pairs, evenly spread over all of them."""
    if len(items) <= PAIRED:
        return list(items)
    return [items[number * len(items) // PAIRED] for number in range(PAIRED)]
