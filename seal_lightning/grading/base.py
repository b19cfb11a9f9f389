"""What a grader is: it gives one score in [0, 1] for one answer to one query (arXiv 2506.10943, section 3).

Your own grader subclasses `Grader` and is named in YAML by `class_path`. One that cannot grade (a judge that does not
reply) raises `GradingError`: a failure is never a score of 0.
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
    """An answer to a question, and the accepted answers, of which the best match counts."""

    question: str
    golds: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's verdict on one answer.

    Attributes:
        score: The score in [0, 1] that enters the rollout.
        probability: How likely the answer is right, where the grader knows.
        reasons: What decided, by name, strongest first; positive numbers speak for the answer (log-odds).
        usage: What an endpoint charged for the verdict.
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
            on_done: Called with the number of answers graded since the last call.

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
        """Reasons for a verdict, from a grader that can tell them from the answer alone."""
        del answer
        return {}


def checked(grader: object, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """The verdicts, once every score has been checked.

    Args:
        grader: The grader that gave them, perhaps a class of the user's.
        verdicts: One verdict for each answer, or for each edit.

    Raises:
        GradingError: A score is not a number in [0, 1].
    """
    for verdict in verdicts:
        score = verdict.score
        if not isinstance(score, Real) or not 0.0 <= score <= 1.0:  # nan is in no range
            kind = type(grader)
            raise GradingError(
                f"{kind.__module__}.{kind.__qualname__} must score with a number in [0, 1], got {score!r}: correct "
                "the grader, and resume"
            )
    return verdicts


class EnglishGrader(Grader):
    """A grader that was only measured on English, and says so once when it meets other letters."""

    _has_told = False  # private, so that it does not enter the stamp of a journal

    def tell_languages(self, golds: Sequence[str]) -> None:
        """Warn the first time that gold answers are in other letters."""
        if self._has_told:
            return
        others = [gold for gold in golds if has_other_letters(gold)]
        if others:
            self._has_told = True
            scripts = sorted({script_of(letter) for gold in others for letter in gold if letter.isalpha()})
            log.warning(
                "%s was only measured on English, and some gold answers use other letters (%s): it compares stems, or "
                "pairs of characters in scripts without spaces; check a sample with seal grade, or use contains or "
                "judge",
                type(self).__name__,
                ", ".join(name for name in scripts if name != "LATIN"),
            )


def best_over_golds(score: Callable[[str, str], float], *, golds: Sequence[str], answer: str) -> float:
    """The best score over the gold answers; an empty answer is 0 whatever the golds are.

    Args:
        score: Compares a gold with the first `LONGEST` characters of the answer.
        golds: The accepted answers.
        answer: The whole answer.
    """
    if not golds:
        raise GradingError("cannot grade an answer without gold answers: give every query at least one")
    if not answer.strip():
        return 0.0
    return max(score(gold, answer[:LONGEST]) for gold in golds)


def check_threshold(threshold: float) -> float:
    """The threshold, if it is above 0 and at most 1."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 < threshold <= 1.0:
        raise ConfigError(f"threshold must be a number above 0 and at most 1, got {threshold!r}: try 0.75")
    return float(threshold)
