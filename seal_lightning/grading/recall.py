"""New-content recall: a score of knowledge queries by words alone, a stand-in for the paper's GPT-4.1 judge.

It asks how many of the gold's words that the question does not give away are in the answer. Among the lexical scores it
agrees best with the published GPT-4.1 verdicts, and it ranks self-edits much as the judge does, unlike exact match. It
does not look at what else the answer says, so it also pays for recitation: compare with `F1`.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.grading.base import EnglishGrader, best_over_golds, check_threshold
from seal_lightning.grading.scripts import is_unspaced
from seal_lightning.grading.words import all_words, content_words, said_words


def new_content_recall(*, question: str, gold: str, answer: str) -> float:
    """Share of the gold's new content words, those that are not in the question, found in the answer.

    Where the question holds all of them ("Was it red or blue?") all content words of the gold count; a gold of stop
    words alone counts with all its words; a gold without any word ("+") must occur as it is.

    >>> new_content_recall(question="Which war did Ada end?", gold="the Second Punic War", answer="the 2nd war")
    0.5
    """
    wanted = content_words(gold)
    given = said_words(question) if is_unspaced(gold) else content_words(question)
    wanted = wanted - given or wanted or all_words(gold)
    if not wanted:
        return float(bool(gold.strip()) and gold.strip() in answer)
    found = said_words(answer)
    return len(wanted & found) / len(wanted)


class Recall(EnglishGrader):
    """1 if the answer has enough of the gold's new content words, else 0.

    Args:
        threshold: Share of the words that must be found, above 0 and at most 1.
    """

    def __init__(self, *, threshold: float = 0.75) -> None:
        self.threshold = check_threshold(threshold)

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        self.tell_languages(golds)

        def passes(gold: str, answer: str) -> float:
            return float(new_content_recall(question=question, gold=gold, answer=answer) >= self.threshold)

        return best_over_golds(passes, golds=golds, answer=answer)
