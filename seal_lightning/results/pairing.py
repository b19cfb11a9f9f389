"""Which contexts of two sets of rollouts are the same: by what was read and asked, never by their ids.

An id may be a row number, so that context 3 of one run and context 3 of another have nothing to do with each other. Two
contexts are the same where their passage and their queries (questions with accepted answers, in any order) are. A
rollout carries a digest of its passage.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seal_lightning.types import Rollout

LENGTH = 16  # hexadecimal digits of a digest

AskedContext = tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]  # digest of the passage, sorted questions with golds


@dataclass(frozen=True, slots=True)
class Pairing:
    """The contexts that two sets of rollouts have in common.

    Attributes:
        pairs: Their ids in the one and in the other.
        mine: Contexts of the one.
        others: Contexts of the other.
        reworded: Contexts of the one with a passage that the other has, too, but with other queries.
    """

    pairs: tuple[tuple[str, str], ...]
    mine: int
    others: int
    reworded: int = 0

    @property
    def whole(self) -> bool:
        """Whether the two have all contexts in common."""
        return len(self.pairs) == self.mine == self.others


def digest_of(passage: str) -> str:
    """The digest of a passage without the white space around it; "" where it is empty."""
    if not passage.strip():
        return ""
    return hashlib.sha256(passage.strip().encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def pair_contexts(mine: Sequence[Rollout], others: Sequence[Rollout]) -> Pairing:
    """Pair the contexts of two sets of rollouts; of equal ones within a set, the first with the first."""
    one, other = contexts_of(mine), contexts_of(others)
    free: dict[AskedContext, list[str]] = {}
    for name, asked in other.items():
        free.setdefault(asked, []).append(name)
    passages = {digest for digest, _ in other.values()}
    pairs, reworded = [], 0
    for name, asked in one.items():
        if names := free.get(asked):
            pairs.append((name, names.pop(0)))
        elif names is None:
            reworded += asked[0] in passages
    return Pairing(tuple(pairs), len(one), len(other), reworded)


def contexts_of(rollouts: Iterable[Rollout]) -> dict[str, AskedContext]:
    """What each context was, by its id."""
    contexts: dict[str, AskedContext] = {}
    for rollout in rollouts:
        if not contexts.get(rollout.context_id, ("", ()))[1]:  # a rejected edit may have asked none
            queries = tuple(sorted(zip(rollout.questions, rollout.golds, strict=True)))
            contexts[rollout.context_id] = rollout.passage_digest, queries
    return contexts


def titles_of(rollouts: Iterable[Rollout]) -> dict[str, str]:
    """What to call each context, by its id: its title, with the id where several have the same; else the id."""
    titles: dict[str, str] = {}
    for rollout in rollouts:
        titles[rollout.context_id] = titles.get(rollout.context_id) or rollout.title.strip()
    counts = Counter(titles.values())
    unique = {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}
    return {name: unique[name] if title else name for name, title in titles.items()}
