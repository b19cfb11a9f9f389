"""Containment: the gold's words occur in the answer, in order and side by side.

Where a script has no blanks the gold's characters do. Korean particles may follow, Hebrew and Arabic prefixes precede.

Stricter than recall, blind to word order changes ("Curie, Marie"), and like recall it pays for recitation.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.grading.base import Grader, best_over_golds
from seal_lightning.grading.stems import begins_with_prefix, ends_with_particles
from seal_lightning.grading.words import ARTICLES, words


def contains(*, gold: str, answer: str) -> bool:
    """Whether the gold occurs in the answer as whole words, articles aside; a gold without any word as it is.

    >>> contains(gold="art", answer="the party"), contains(gold="the Seine", answer="It is Seine river.")
    (False, True)
    >>> contains(gold="李明", answer="桥是李明造的")
    True
    >>> contains(gold="서울", answer="서울에서"), contains(gold="서울", answer="서울역")
    (True, False)
    """
    wanted = [word for word in words(gold) if word not in ARTICLES] or words(gold)
    if not wanted:
        return bool(gold.strip()) and gold.strip() in answer
    given = words(answer)
    if not ARTICLES.issuperset(wanted):
        given = [word for word in given if word not in ARTICLES]
    if f" {' '.join(wanted)} " in f" {' '.join(given)} ":  # no word has a blank in it
        return True
    places = range(len(given) - len(wanted) + 1)
    attached = not answer.isascii() and not (wanted[0].isascii() and wanted[-1].isascii())
    return attached and any(_says(given[start : start + len(wanted)], wanted) for start in places)


def _says(given: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether words say others, apart from what their language writes together with the first and the last one."""
    inner = slice(1, -1)
    if given[inner] != wanted[inner]:
        return False
    if len(wanted) == 1:
        return begins_with_prefix(given[0], wanted[0]) or ends_with_particles(given[0], wanted[0])
    first = given[0] == wanted[0] or begins_with_prefix(given[0], wanted[0])
    return first and (given[-1] == wanted[-1] or ends_with_particles(given[-1], wanted[-1]))


class Contains(Grader):
    """1 if the answer contains a gold answer as whole words, else 0."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        del question
        return best_over_golds(lambda gold, said: float(contains(gold=gold, answer=said)), golds=golds, answer=answer)
