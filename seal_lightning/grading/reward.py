"""From a rollout to its reward: a weighted sum of named terms (arXiv 2506.10943, section 3.1).

The paper rewards the mean score after adapting. Other terms make contexts comparable (gain), keep edits short and
answers to the point, or protect what other contexts taught. Every term is a function of the rollout alone, so that a
journal can be rewarded anew (`seal replay --reward`). A new term is one more line in `TERMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean
from types import MappingProxyType

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.grading.scripts import count_words
from seal_lightning.grading.words import content_words
from seal_lightning.types import Rollout

_LARGEST = 1e9  # weight: sums and means of rewards have to be finite


class Reward:
    """Weighted sum of named terms of one rollout.

    Args:
        terms: Weights by term. `score`: mean score after adapting. `gain`: score minus baseline. `improved`: 1 if the
            score is above the baseline. `precision`: share of an answer's content words that question or gold answer
            have, which reciting the passage lowers. `length`: hundreds of words of the edit (give it a negative
            weight). `format`: share of the edit's lines that say something not said before. `carry_over`: change of
            accuracy on other contexts' queries (set `e_step.carry_over_queries`). One name alone has weight 1.
    """

    def __init__(self, terms: dict[str, float] | str = "score") -> None:
        weights = {terms: 1.0} if isinstance(terms, str) else dict(terms)
        allowed = ", ".join(TERMS)
        if not weights:
            raise ConfigError(f"terms must name at least one of {allowed}, got none: try score")
        for name, weight in weights.items():
            if name not in TERMS:
                raise ConfigError(f"terms must be among {allowed}, got {name!r}: rename or remove it")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"terms must have finite numbers as weights, got {name}: {weight!r}: give a number")
            if abs(weight) > _LARGEST:
                raise ConfigError(
                    f"terms must have weights up to {_LARGEST:g}, got {name}: {weight!r}: scale them down"
                )
        self.terms = {name: float(weight) for name, weight in weights.items()}

    def measure(self, rollout: Rollout) -> dict[str, float]:
        """The terms of a scored rollout, before weights.

        Raises:
            DataError: The rollout lacks what a term is made of.
        """
        return {name: TERMS[name](rollout) for name in self.terms}

    def total(self, measured: Mapping[str, float]) -> float:
        """The reward from measured terms."""
        return math.fsum(weight * measured[name] for name, weight in self.terms.items())

    def check_above(self, above: float | None) -> None:
        """Whether a filter that keeps rewards above a limit can keep anything.

        Raises:
            ConfigError: No reward can be as high.
        """
        if above is not None and self.highest <= above:
            terms = ", ".join(f"{name}: {weight:g}" for name, weight in self.terms.items())
            raise ConfigError(
                f"filter.above must be below the highest reward that there can be, which is {self.highest:g} for "
                f"{{{terms}}}, got {above:g}: set filter.above to null"
            )

    @property
    def highest(self) -> float:
        """No reward is larger."""
        ranges = {"gain": (-1.0, 1.0), "carry_over": (-1.0, 1.0), "length": (0.0, math.inf)}
        bounds = ((weight, ranges.get(name, (0.0, 1.0))) for name, weight in self.terms.items() if weight)
        return math.fsum(max(weight * low, weight * high) for weight, (low, high) in bounds)


def _precision(rollout: Rollout) -> float:
    """Mean over queries; an empty answer says nothing wrong, and scores 0 anyway."""
    shares = []
    for question, golds, answer in zip(rollout.questions, rollout.golds, rollout.answers, strict=True):
        said = content_words(answer)
        supported = content_words(question).union(*map(content_words, golds))
        shares.append(len(said & supported) / len(said) if said else 1.0)
    return fmean(shares) if shares else 1.0


def _format(rollout: Rollout) -> float:
    """Distinct among the lines that are not blank; 0 for an edit without any."""
    lines = [" ".join(line.split()).casefold() for line in rollout.text.splitlines() if line.strip()]
    return len(set(lines)) / len(lines) if lines else 0.0


def _carry_over(rollout: Rollout) -> float:
    if rollout.retention is None:
        raise DataError(
            f"carry_over of context {rollout.context_id!r} was not measured: set model.e_step.carry_over_queries "
            "before the run, or leave the term out"
        )
    return rollout.retention


TERMS: Mapping[str, Callable[[Rollout], float]] = MappingProxyType(
    {
        "score": lambda rollout: rollout.score,
        "gain": lambda rollout: rollout.score - rollout.baseline,
        "improved": lambda rollout: float(rollout.score > rollout.baseline),
        "precision": _precision,
        "length": lambda rollout: count_words(rollout.text) / 100,
        "format": _format,
        "carry_over": _carry_over,
    }
)
