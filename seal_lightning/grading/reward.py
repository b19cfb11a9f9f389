"""From scores to a reward: what one rollout is worth (arXiv 2506.10943, section 3.1).

The paper rewards the mean score after adapting. Weighing in the gain over the baseline makes contexts comparable whose
queries the policy could answer before. A new term is one more line in `TERMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from seal_lightning.errors import ConfigError

TERMS: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "score": lambda score, baseline: score,
        "gain": lambda score, baseline: score - baseline,
        "improved": lambda score, baseline: float(score > baseline),
    }
)


class Reward:
    """Weighted sum of named terms of one rollout.

    Args:
        terms: Weights by term: `score` (mean score after adapting), `gain` (score minus baseline), `improved` (1 if the
            score is above the baseline). One name alone means that term with weight 1.
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
        self.terms = {name: float(weight) for name, weight in weights.items()}

    def value(self, *, score: float, baseline: float) -> float:
        """The reward of a rollout.

        Args:
            score: Mean score over the context's queries with the adapter, in [0, 1].
            baseline: Mean score over the same queries without it, in [0, 1].
        """
        return math.fsum(weight * TERMS[name](score, baseline) for name, weight in self.terms.items())
