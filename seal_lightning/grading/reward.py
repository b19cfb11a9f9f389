"""From a rollout to its reward: a weighted sum of terms (arXiv 2506.10943, section 3.1).

The paper rewards the mean score after adapting. Other terms make contexts comparable (gain), keep edits short and
answers to the point, or protect what other contexts taught. What the terms are: `terms.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading.terms import RewardTerm, as_term
from seal_lightning.types import Rollout

_LARGEST = 1e9  # weight: sums and means of rewards have to be finite

if TYPE_CHECKING:
    Term: TypeAlias = str | Callable[[Rollout], float]
else:  # what jsonargparse can read
    Term = RewardTerm | str


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term of the reward with its weight.

    Attributes:
        term: A built-in term's name, a function or a `RewardTerm`, or the import path of either.
        weight: The factor of the term.
    """

    term: Term
    weight: float = 1.0


if TYPE_CHECKING:
    RewardOption: TypeAlias = Term | Mapping[str, float] | Mapping[Term, float] | Sequence[Weighted | Term]
else:
    RewardOption = str | dict[str, float] | RewardTerm | list[Weighted | RewardTerm | str]


class Reward:
    """Weighted sum of terms of one rollout.

    Args:
        terms: One term of weight 1, weights by term, or a list of terms and `Weighted` ones.

    Attributes:
        terms: The terms by name.
        weights: Their weights.
    """

    def __init__(self, terms: RewardOption = "score") -> None:
        self.terms: dict[str, RewardTerm] = {}
        self.weights: dict[str, float] = {}
        for given, weight in _pairs(terms):
            term = as_term(given)
            if term.name in self.terms:
                raise ConfigError(
                    f"reward must have each term once, got {term.name} twice: set the name attribute of one of them"
                )
            self.terms[term.name] = term
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                got = f"{term.name}: {weight!r}: give a number"
                raise ConfigError(f"reward must have finite numbers as weights, got {got}")
            if abs(weight) > _LARGEST:
                got = f"{term.name}: {weight!r}: scale them down"
                raise ConfigError(f"reward must have weights up to {_LARGEST:g}, got {got}")
            self.weights[term.name] = float(weight)
        if not self.terms:
            raise ConfigError("reward must name at least one term, got none: try score")

    def names(self, asked: Callable[[RewardTerm], bool]) -> list[str]:
        """The names of the terms of which something is true."""
        return [name for name, term in sorted(self.terms.items()) if asked(term)]

    def measure(self, rollout: Rollout) -> dict[str, float]:
        """The terms of a scored rollout, before weights.

        Raises:
            DataError: The rollout lacks what a term is made of.
            GradingError: A term is not a finite number.
        """
        measured = {}
        for name, term in self.terms.items():
            value: object = term(rollout)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise GradingError(
                    f"reward term {name} must be a finite number, got {value!r} for context {rollout.context_id!r}: "
                    "correct the term, and resume"
                )
            measured[name] = float(value)
        return measured

    def total(self, measured: Mapping[str, float]) -> float:
        """The reward from measured terms."""
        return math.fsum(weight * measured[name] for name, weight in self.weights.items())

    def check_above(self, above: float | None) -> None:
        """Whether a filter that keeps rewards above a limit can keep anything.

        Raises:
            ConfigError: No reward can be as high.
        """
        if above is not None and self.highest <= above:
            terms = ", ".join(f"{name}: {weight:g}" for name, weight in self.weights.items())
            raise ConfigError(
                f"filter.above must be below the highest reward that there can be, which is {self.highest:g} for "
                f"{{{terms}}}, got {above:g}: set filter.above to null"
            )

    @property
    def highest(self) -> float:
        """No reward is larger."""
        bounds = ((weight, self.terms[name].bounds) for name, weight in self.weights.items() if weight)
        return math.fsum(max(weight * low, weight * high) for weight, (low, high) in bounds)


def writable(terms: RewardOption) -> RewardOption:
    """The reward in a form that YAML can hold, where a term with options cannot be the key of a mapping."""
    if isinstance(terms, Mapping) and any(isinstance(term, RewardTerm) for term in terms):
        return [Weighted(term, weight) for term, weight in terms.items()]
    return terms


def _pairs(terms: RewardOption) -> list[tuple[Term, object]]:
    """Each term with its weight."""
    if isinstance(terms, Mapping):
        return list(terms.items())
    if isinstance(terms, str) or not isinstance(terms, Sequence):
        return [(terms, 1.0)]
    return [(each.term, each.weight) if isinstance(each, Weighted) else (each, 1.0) for each in terms]
