"""The terms that a reward can be made of: what one rollout is worth in one respect.

A term is a function of the rollout alone, so that a journal can be rewarded anew (`seal replay --reward`). One of the
user's own is a function, or a class below `RewardTerm` where it has options or says more about itself.
"""

from __future__ import annotations

import difflib
import importlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import fmean

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.grading.scripts import count_words
from seal_lightning.grading.words import content_words
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Rollout


class RewardTerm(Remembers, ABC):
    """One term of the reward, for example:

    >>> class Brevity(RewardTerm):
    ...     def __init__(self, limit: int = 50) -> None:
    ...         self.limit = limit
    ...     def __call__(self, rollout):
    ...         return float(len(rollout.text.split()) <= self.limit)
    >>> Brevity(limit=2).name
    'Brevity'

    Attributes:
        name: How journals, metrics and tables call it; the name of the class unless set.
        bounds: The least and the greatest value; infinite where unknown.
        needs_answers: Whether it reads answers, their scores or the baseline, which a rubric (`e_step.score_by`) does
            not provide. `score` itself is there in either case.
        needs_carry_over: Whether it reads `Rollout.retention`, which `e_step.carry_over_queries` measures.
        follows_score: Whether it orders the edits of a context as their scores do, which `e_step.racing` requires.
    """

    name: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    needs_answers: bool = True
    needs_carry_over: bool = False
    follows_score: bool = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @abstractmethod
    def __call__(self, rollout: Rollout) -> float:
        """The value of a scored rollout: any finite number.

        Raises:
            DataError: The rollout lacks what the term is made of.
        """


class Score(RewardTerm):
    """The mean score after adapting (the paper's reward), or a rubric's mark."""

    name, bounds = "score", (0.0, 1.0)
    needs_answers, follows_score = False, True

    def __call__(self, rollout: Rollout) -> float:
        return rollout.score


class Gain(RewardTerm):
    """The score minus the baseline, which makes contexts comparable."""

    name, bounds = "gain", (-1.0, 1.0)
    follows_score = True

    def __call__(self, rollout: Rollout) -> float:
        return rollout.score - rollout.baseline


class Improved(RewardTerm):
    """1 if the score is above the baseline."""

    name, bounds = "improved", (0.0, 1.0)

    def __call__(self, rollout: Rollout) -> float:
        return float(rollout.score > rollout.baseline)


class Precision(RewardTerm):
    """The share of an answer's content words that the question or a gold answer has, which reciting the passage lowers.

    The mean over queries; an empty answer says nothing wrong, and scores 0 anyway.
    """

    name, bounds = "precision", (0.0, 1.0)

    def __call__(self, rollout: Rollout) -> float:
        shares = []
        for question, golds, answer in zip(rollout.questions, rollout.golds, rollout.answers, strict=True):
            said = content_words(answer)
            supported = content_words(question).union(*map(content_words, golds))
            shares.append(len(said & supported) / len(said) if said else 1.0)
        return fmean(shares) if shares else 1.0


class Length(RewardTerm):
    """Hundreds of words of the edit; give it a negative weight."""

    name, bounds = "length", (0.0, math.inf)
    needs_answers = False

    def __call__(self, rollout: Rollout) -> float:
        return count_words(rollout.text) / 100


class Format(RewardTerm):
    """The share of the edit's non-blank lines that say something not said before; 0 for an edit without any."""

    name, bounds = "format", (0.0, 1.0)
    needs_answers = False

    def __call__(self, rollout: Rollout) -> float:
        lines = [" ".join(line.split()).casefold() for line in rollout.text.splitlines() if line.strip()]
        return len(set(lines)) / len(lines) if lines else 0.0


class CarryOver(RewardTerm):
    """The change of accuracy on other contexts' queries (`e_step.carry_over_queries`)."""

    name, bounds = "carry_over", (-1.0, 1.0)
    needs_carry_over = True

    def __call__(self, rollout: Rollout) -> float:
        if rollout.retention is None:
            raise DataError(
                f"carry_over of context {rollout.context_id!r} was not measured: set model.e_step.carry_over_queries "
                "before the run, or leave the term out"
            )
        return rollout.retention


class Different(RewardTerm):
    """How different the edit is from the other edits of its context, on average: 1 where it is like none of them.

    The passage alone and an edit that the data carries are not compared, and have 1.
    """

    name, bounds = "diversity", (0.0, 1.0)
    needs_answers = False

    def __call__(self, rollout: Rollout) -> float:
        if rollout.kind != "edit":
            return 1.0
        if rollout.similarity is None:
            raise DataError(
                f"diversity of context {rollout.context_id!r} was not measured: expected the similarity of a written "
                "self-edit to the others, got none; leave the term out"
            )
        return 1.0 - rollout.similarity


BUILT_IN: dict[str, type[RewardTerm]] = {
    kind.name: kind for kind in (Score, Gain, Improved, Precision, Length, Format, CarryOver, Different)
}

_ALLOWED = ", ".join(BUILT_IN)
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class _FunctionTerm(RewardTerm):
    """A function as a term: it reads answers, as far as anybody knows, and may return any number."""

    def __init__(self, function: Callable[[Rollout], float]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__).strip("<>")

    def __call__(self, rollout: Rollout) -> float:
        return self.function(rollout)


def as_term(given: str | Callable[[Rollout], float]) -> RewardTerm:
    """The term that a user names or passes: a built-in one's name, an import path, a class, instance or function.

    Raises:
        ConfigError: The value is none of these.
    """
    if isinstance(given, RewardTerm):
        return given
    if isinstance(given, str):
        return BUILT_IN[given]() if given in BUILT_IN else as_term(_imported(given))
    if isinstance(given, type) and issubclass(given, RewardTerm):
        try:
            return given()
        except TypeError as error:
            raise ConfigError(f"reward must have the options of {given.__name__}: {error}: use class_path") from error
    if callable(given) and not isinstance(given, type):
        return _FunctionTerm(given)
    raise ConfigError(
        f"reward must be made of {_ALLOWED}, got {given!r}: name one, or pass a function of a rollout or a RewardTerm"
    )


def _imported(path: str) -> Callable[[Rollout], float]:
    """The function or class of an import path such as `my_module.brevity`, unchecked."""
    if not _PATH.fullmatch(path):
        near = difflib.get_close_matches(path, BUILT_IN, n=1)
        advice = f"did you mean {near[0]}?" if near else "one of yours is written as my_module.my_term"
        if path.startswith(("{", "[")):  # what jsonargparse could not read as anything else
            advice = "check its class_path, init_args and weights"
        raise ConfigError(f"reward must be made of {_ALLOWED}, got {path!r}: {advice}")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"reward must name what can be imported, got {path!r}: {error}") from error
