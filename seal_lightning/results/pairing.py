"""Which contexts of two sets of rollouts are the same: by what was read and asked, never by their ids.

An id may be a row number, so that context 3 of one run and context 3 of another have nothing to do with each other. Two
contexts are the same where their passage and their queries (questions with accepted answers, in any order) are. A
rollout carries a digest of its passage; one of an earlier version has its prompt alone, of which the passage is what
its run's other prompts do not have in common with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from seal_lightning.types import Rollout

LENGTH = 16  # hexadecimal digits of a digest
MARK = "Passage: "  # before the passage in the prompts of the package
TITLE = "Title: "  # and before the title
PARAGRAPH = "\n\n"

Queries = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A context as its rollouts tell of it.

    Attributes:
        digest: Of its passage; empty in rollouts of earlier versions.
        text: What is its own in its prompt.
        queries: Questions with accepted answers, sorted.
    """

    digest: str
    text: str
    queries: Queries


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
    """Of a passage, without the white space around it; "" of none."""
    if not passage.strip():
        return ""
    return hashlib.sha256(passage.strip().encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def pair_contexts(mine: Sequence[Rollout], others: Sequence[Rollout]) -> Pairing:
    """Pair the contexts of two sets of rollouts; of equal ones within a set, the first with the first."""
    one, other = contexts_of(mine), contexts_of(others)
    by_digest = all(asked.digest for found in (one, other) for asked in found.values())
    free: dict[tuple[str, Queries], list[str]] = {}
    for name, asked in other.items():
        free.setdefault((_passage(asked, by_digest), asked.queries), []).append(name)
    passages = {_passage(asked, by_digest) for asked in other.values()}
    pairs, reworded = [], 0
    for name, asked in one.items():
        passage = _passage(asked, by_digest)
        found = free.get((passage, asked.queries))
        if found:
            pairs.append((name, found.pop(0)))
        elif found is None:
            reworded += passage in passages
    return Pairing(tuple(pairs), len(one), len(other), reworded)


def contexts_of(rollouts: Iterable[Rollout]) -> dict[str, Asked]:
    """What each context was, by its id."""
    digests: dict[str, str] = {}
    prompts: dict[str, str] = {}
    queries: dict[str, Queries] = {}
    for rollout in rollouts:
        name = rollout.context_id
        digests[name] = digests.get(name) or rollout.passage_digest
        prompts[name] = prompts.get(name) or rollout.prompt
        queries[name] = queries.get(name) or tuple(sorted(zip(rollout.questions, rollout.golds, strict=True)))
    texts = _own_texts(prompts)
    return {name: Asked(digests[name], texts[name], queries[name]) for name in digests}


def _passage(asked: Asked, by_digest: bool) -> str:
    return asked.digest if by_digest else asked.text


def _own_texts(prompts: Mapping[str, str]) -> dict[str, str]:
    """The prompts without what all of them begin and end with, cut at the passage's mark and at a paragraph."""
    distinct = sorted(set(prompts.values()))
    end = _common_end(distinct) if len(distinct) > 1 else ""
    end = end[at:] if (at := end.find(PARAGRAPH)) >= 0 else ""
    return {name: _after_mark(text.removesuffix(end) if end else text) for name, text in prompts.items()}


def _common_end(texts: Sequence[str]) -> str:
    """What all texts end with, of at least one."""
    backwards = [text[::-1] for text in texts]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*backwards, strict=False))
    return "".join(letters[0] for letters in same)[::-1]


def _after_mark(text: str) -> str:
    return text.partition(MARK)[2].strip() or text.strip()


# -- names -------------------------------------------------------------------------------------------------------------


def titles_of(rollouts: Iterable[Rollout]) -> dict[str, str]:
    """What to call each context, by its id: its title, with the id behind it where several have the same; else the id.

    Rollouts of earlier versions have it in their prompt, where a task of the package wrote that.
    """
    titles: dict[str, str] = {}
    for rollout in rollouts:
        name = rollout.context_id
        titles[name] = titles.get(name) or rollout.title.strip() or _title_in(rollout.prompt)
    counts = Counter(titles.values())
    return {name: _name(name, title, counts[title]) for name, title in titles.items()}


def _name(context_id: str, title: str, count: int) -> str:
    if not title:
        return context_id
    return title if count == 1 else f"{title} ({context_id})"


def _title_in(prompt: str) -> str:
    title, mark, _ = prompt.rpartition(TITLE)[2].partition(f"\n{MARK}")
    return title.strip() if mark and "\n" not in title and TITLE in prompt else ""
