"""What a grader is: one score in [0, 1] for one answer to one query (SEAL's tau, arXiv 2506.10943, section 3).

A grader of one's own subclasses `Grader` and is named in YAML by `class_path`. One that cannot grade (a judge that does
not reply) raises `GradingError`: a failure is never a score of 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from seal_lightning.errors import ConfigError, GradingError


class Grader(ABC):
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


def best_over_golds(score: Callable[[str], float], *, golds: Sequence[str], answer: str) -> float:
    """The best score over the gold answers; an empty answer is 0 whatever the golds are."""
    if not golds:
        raise GradingError("cannot grade an answer without gold answers: give every query at least one")
    if not answer.strip():
        return 0.0
    return max(score(gold) for gold in golds)


def check_threshold(threshold: float) -> float:
    """The threshold, if a share can be compared with it."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 < threshold <= 1.0:
        raise ConfigError(f"threshold must be a number above 0 and at most 1, got {threshold!r}: try 0.75")
    return float(threshold)
