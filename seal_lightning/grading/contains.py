"""Containment: the gold's words occur in the answer, in order and side by side.

Stricter than recall, blind to word order changes ("Curie, Marie"), and like recall it pays for recitation.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.grading.base import Grader, best_over_golds
from seal_lightning.grading.words import ARTICLES, words


def contains(*, gold: str, answer: str) -> bool:
    """Whether the gold occurs in the answer as whole words, articles aside; a gold without any word as it is.

    >>> contains(gold="art", answer="the party"), contains(gold="the Seine", answer="It is Seine river.")
    (False, True)
    """
    wanted = [word for word in words(gold) if word not in ARTICLES] or words(gold)
    if not wanted:
        return bool(gold.strip()) and gold.strip() in answer
    given = words(answer)
    if not ARTICLES.issuperset(wanted):
        given = [word for word in given if word not in ARTICLES]
    return any(given[start : start + len(wanted)] == wanted for start in range(len(given) - len(wanted) + 1))


class Contains(Grader):
    """1 if the answer contains a gold answer as whole words, else 0."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        del question
        return best_over_golds(lambda gold: float(contains(gold=gold, answer=answer)), golds=golds, answer=answer)
