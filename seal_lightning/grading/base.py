"""What a grader is: one score in [0, 1] for one answer to one query (SEAL's tau, arXiv 2506.10943, section 3).

A grader of one's own subclasses `Grader` and is named in YAML by `class_path`. One that cannot grade (a judge that does
not reply) raises `GradingError`: a failure is never a score of 0.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading.scripts import has_other_letters
from seal_lightning.grading.stems import script_of
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Chooser, Usage

log = logging.getLogger(__name__)

LONGEST = 100_000  # characters of an answer that a lexical grader reads


@dataclass(frozen=True, slots=True)
class Answer:
    """What is graded: an answer to a question, and the accepted answers, of which the best one counts."""

    question: str
    golds: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's word on one answer.

    Attributes:
        score: In [0, 1]; what enters the rollout.
        probability: That the answer is right, where the grader knows it.
        reasons: What decided, by name, strongest first; positive numbers speak for the answer (log-odds).
        usage: What an endpoint charged for it.
    """

    score: float
    probability: float | None = None
    reasons: Mapping[str, float] = field(default_factory=dict)
    usage: Usage = Usage()


class Grader(Remembers, ABC):
    """Scores an answer to a query, for example:

    >>> class StartsWith(Grader):
    ...     def grade(self, *, question, golds, answer):
    ...         return float(any(answer.startswith(gold) for gold in golds))
    >>> StartsWith().grade(question="Who?", golds=["Ada"], answer="Ada Lovelace")
    1.0
    """

    @abstractmethod
    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        """Score one answer.

        Args:
            question: The query as the model was asked, without topic or prompt.
            golds: The accepted answers, at least one; the best of them counts.
            answer: What the model answered, after `Task.read_answer`.

        Returns:
            A score in [0, 1]; an empty answer scores 0.

        Raises:
            GradingError: The answer could not be graded.
        """

    def verdicts(
        self,
        answers: Sequence[Answer],
        *,
        policy: Chooser | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Verdict]:
        """Grade many answers, in order. A grader that is faster on many at once overrides this.

        Args:
            answers: What to grade.
            policy: The policy of the E-step, for a grader that asks it; None where there is none (`seal grade`).
            on_done: Told how many were graded since the last call.

        Raises:
            GradingError: One of the answers could not be graded.
        """
        graded = []
        for answer in answers:
            score = self.grade(question=answer.question, golds=answer.golds, answer=answer.text)
            graded.append(Verdict(score, reasons=self.reasons(answer.text)))
            on_done(1)
        return graded

    def reasons(self, answer: str) -> Mapping[str, float]:
        """The reasons in a verdict of `verdicts`, of a grader that can tell them from the answer alone."""
        del answer
        return {}


def checked(grader: object, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """The verdicts, if all scores are what they have to be.

    Args:
        grader: Who gave them, a class of a user's own perhaps.
        verdicts: One for each answer, or for each edit.

    Raises:
        GradingError: A score is no number in [0, 1].
    """
    for verdict in verdicts:
        score = verdict.score
        if not isinstance(score, Real) or not 0.0 <= score <= 1.0:  # nan is in no range
            kind = type(grader)
            raise GradingError(
                f"{kind.__module__}.{kind.__qualname__} must score with a number in [0, 1], got {score!r}: mend it, "
                "and resume"
            )
    return verdicts


class EnglishGrader(Grader):
    """A grader that was measured on English alone, and says so once where it meets other letters."""

    _has_told = False  # private: no part of the settings that a journal is stamped with

    def tell_languages(self, golds: Sequence[str]) -> None:
        """Warn, for the first time that gold answers are in other letters."""
        if self._has_told:
            return
        others = [gold for gold in golds if has_other_letters(gold)]
        if others:
            self._has_told = True
            scripts = sorted({script_of(letter) for gold in others for letter in gold if letter.isalpha()})
            log.warning(
                "%s was measured on English alone, and gold answers are in other letters (%s): it compares stems, or "
                "pairs of characters where no blanks part words; look at a sample with seal grade, or take contains or "
                "judge",
                type(self).__name__,
                ", ".join(name for name in scripts if name != "LATIN"),
            )


def best_over_golds(score: Callable[[str, str], float], *, golds: Sequence[str], answer: str) -> float:
    """The best score over the gold answers; an empty answer is 0 whatever the golds are.

    Args:
        score: Of a gold and the answer, of which it gets the first `LONGEST` characters.
        golds: The accepted answers.
        answer: As it was given.
    """
    if not golds:
        raise GradingError("cannot grade an answer without gold answers: give every query at least one")
    if not answer.strip():
        return 0.0
    return max(score(gold, answer[:LONGEST]) for gold in golds)


def check_threshold(threshold: float) -> float:
    """The threshold, if a share can be compared with it."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 < threshold <= 1.0:
        raise ConfigError(f"threshold must be a number above 0 and at most 1, got {threshold!r}: try 0.75")
    return float(threshold)
