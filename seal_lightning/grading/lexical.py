"""Lexical scores of an answer by words alone: stand-ins for the paper's GPT-4.1 judge that cost nothing.

Recall asks how many of the gold's words that the question does not give away are in the answer. Of these scores it
agrees best with the published GPT-4.1 verdicts, and it ranks self-edits much as the judge does. It does not look at
what else the answer says, so it also pays for recitation, as containment does, which is stricter and blind to word
order changes ("Curie, Marie"). SQuAD's F1, computed by torchmetrics, does not pay for it. Exact match is for reporting:
as a reward it chooses among a context's self-edits about at random, because a model that answers in sentences never
matches.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.grading.base import EnglishGrader, Grader, best_over_golds, check_threshold
from seal_lightning.grading.scripts import is_other, is_unspaced, spaced
from seal_lightning.grading.stems import begins_with_prefix, ends_with_particles
from seal_lightning.grading.words import ARTICLES, all_words, content_words, said_words, words


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


def contains(*, gold: str, answer: str) -> bool:
    """Whether the gold occurs in the answer as whole words, in order and side by side, articles aside.

    A gold without any word counts as it is. Where a script has no blanks the gold's characters count as words. Korean
    particles may follow, Hebrew and Arabic prefixes precede.

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


def _squad(question: str, gold: str, answer: str) -> dict[str, float]:
    """SQuAD's scores. Texts in other than Latin letters are taken apart first, as MLQA and KorQuAD do it.

    That is without punctuation, by characters where there are no blanks, by syllables in Korean.
    """
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
