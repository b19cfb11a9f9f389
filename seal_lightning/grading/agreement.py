"""How a grader agrees with a judge: share of equal verdicts, Cohen's kappa, calibration error, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10
RIGHT = 0.5  # the score from which on an answer counts as right


@dataclass(frozen=True, slots=True)
class Agreement:
    """All are shares, but for `n` and kappa; a share of nothing is None.

    Attributes:
        n: Number of verdicts.
        agreement: Share of equal verdicts.
        kappa: What of it is beyond chance (Cohen); None where one side always says the same.
        calibration_error: Mean distance of the probability from the share that the judge calls right, over ten equal
            bins weighted by their verdicts (ECE).
        precision: Share of the grader's "right" that the judge calls right.
        recall: Share of the judge's "right" that the grader calls right.
        right: Share that the judge calls right.
        graded_right: Share that the grader calls right.
    """

    n: int
    agreement: float
    kappa: float | None
    calibration_error: float
    precision: float | None
    recall: float | None
    right: float
    graded_right: float


def compare(probabilities: Sequence[float], graded: Sequence[bool], judged: Sequence[bool]) -> Agreement:
    """A grader's verdicts and probabilities beside those of a judge; at least one.

    >>> measured = compare([0.25, 0.25, 0.95, 0.95], [False, False, True, True], [False, True, True, True])
    >>> measured.kappa, round(measured.calibration_error, 3)
    (0.5, 0.15)
    """
    n = len(judged)
    both = sum(mine and his for mine, his in zip(graded, judged, strict=True))
    mine, his = sum(graded), sum(judged)
    equal = (n - mine - his + 2 * both) / n
    chance = (mine * his + (n - mine) * (n - his)) / n**2
    excess = [0.0] * BINS
    for probability, right in zip(probabilities, judged, strict=True):
        excess[min(int(probability * BINS), BINS - 1)] += probability - right
    return Agreement(
        n=n,
        agreement=equal,
        kappa=None if chance == 1.0 else (equal - chance) / (1.0 - chance),
        calibration_error=sum(map(abs, excess)) / n,
        precision=both / mine if mine else None,
        recall=both / his if his else None,
        right=his / n,
        graded_right=mine / n,
    )
