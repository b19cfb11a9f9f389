"""SQuAD's exact match and token F1, computed by torchmetrics.

Exact match is for reporting: as a reward it chooses among a context's self-edits about at random, because a model that
answers in sentences never matches. F1 is the lexical score that does not pay for recitation. Texts in other than Latin
letters are taken apart first, as MLQA and KorQuAD do it: without punctuation, by characters where there are no blanks,
by syllables in Korean.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.grading.base import Grader, best_over_golds, check_threshold
from seal_lightning.grading.scripts import is_other, spaced


def _squad(question: str, gold: str, answer: str) -> dict[str, float]:
    from torchmetrics.functional.text import squad  # takes seconds to import; `seal --help` must not wait for it

    if is_other(question) or is_other(gold):
        gold, answer = spaced(gold, syllables=True), spaced(answer, syllables=True)
    found = squad(
        [{"prediction_text": answer, "id": "0"}],
        [{"answers": {"answer_start": [0], "text": [gold]}, "id": "0"}],
    )
    return {name: float(percent) / 100.0 for name, percent in found.items()}


class ExactMatch(Grader):
    """1 if the answer equals a gold answer after SQuAD's normalisation, else 0. Not to be used as a reward."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        return best_over_golds(
            lambda gold, said: _squad(question, gold, said)["exact_match"], golds=golds, answer=answer
        )


class F1(Grader):
    """Token F1 of the answer against the gold answer, as SQuAD has it.

    Args:
        threshold: Score 1 from this F1 on and 0 below it; None gives the F1 itself.
    """

    def __init__(self, *, threshold: float | None = None) -> None:
        self.threshold = None if threshold is None else check_threshold(threshold)

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        f1 = best_over_golds(lambda gold, said: _squad(question, gold, said)["f1"], golds=golds, answer=answer)
        return f1 if self.threshold is None else float(f1 >= self.threshold)
