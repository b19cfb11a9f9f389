"""A model small enough to read: the log-odds of "right" are a sum of one curve for each feature.

A curve is a row of points joined by straight lines and flat beyond its ends, so every contribution can be looked up in
the file by hand, and an answer's contributions and the intercept add up to its log-odds exactly. On the published
verdicts trees with interactions over the same features agree no better (docs/graders.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seal_lightning.errors import ConfigError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text

DIGITS = 3  # of what is saved


@dataclass(frozen=True, slots=True)
class Curve:
    """Log-odds added at each of the points; `at` ascends."""

    at: tuple[float, ...]
    adds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """The model.

    Attributes:
        intercept: Log-odds of an answer to which no curve adds anything.
        curves: By feature.
        fitted_on: Where the coefficients come from, for readers of the file.
    """

    intercept: float
    curves: Mapping[str, Curve]
    fitted_on: Mapping[str, Any]

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """What each feature adds: log-odds in the shape of `features`, (answers, features)."""
        added = np.empty_like(features)
        for column, curve in enumerate(self.curves.values()):
            added[:, column] = np.interp(features[:, column], curve.at, curve.adds)
        return added

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        return self.intercept + self.contributions(features).sum(axis=1)

    def save(self, path: Path) -> None:
        """Write a feature a line."""
        rows = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps({'at': curve.at, 'adds': curve.adds})}"
            for name, curve in self.curves.items()
        )
        text = (
            f'{{\n"fitted_on": {json.dumps(dict(self.fitted_on))},\n"intercept": {json.dumps(self.intercept)},\n'
            f'"features": {{\n{rows}\n}}\n}}\n'
        )
        save_text(path, text)


def load(path: Path, *, features: Sequence[str]) -> Curves:
    """Read a model whose features must be those named, in any order.

    Raises:
        ConfigError: The file cannot be read, or is not such a model.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        curves = {
            name: Curve(tuple(map(float, row["at"])), tuple(map(float, row["adds"])))
            for name, row in content["features"].items()
        }
        model = Curves(float(content["intercept"]), {name: curves[name] for name in features}, content["fitted_on"])
    except OSError as error:
        raise ConfigError(
            f"coefficients must be a file that can be read, got {str(path)!r}: {error.strerror}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"coefficients must be a file of seal_lightning.commands.fit_grader, got {str(path)!r} with {what}: "
            "fit it anew"
        ) from None
    broken = [name for name, curve in model.curves.items() if not _is_sound(curve)]
    if broken or len(curves) != len(features):
        names = ", ".join(broken or sorted(curves.keys() - set(features)))
        raise ConfigError(
            f"coefficients must have a sound curve for each feature, got {names} in {str(path)!r}: fit it anew"
        )
    return model


def _is_sound(curve: Curve) -> bool:
    at, adds = np.array(curve.at), np.array(curve.adds)
    return len(at) == len(adds) > 0 and bool(
        np.isfinite(at).all() and np.isfinite(adds).all() and (np.diff(at) > 0).all()
    )


def probabilities(log_odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(log_odds, -30.0, 30.0)))


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit_curves(
    features: np.ndarray,
    correct: np.ndarray,
    *,
    names: Sequence[str],
    fitted_on: Mapping[str, Any] = {},
    points: int = 6,
    ridge: float = 20.0,
) -> Curves:
    """Fit by penalised logistic regression (Newton's method), the same every time.

    The penalty is on each curve's rises from point to point: a feature that tells nothing becomes flat.

    Args:
        features: (answers, features).
        correct: The judge's verdicts, (answers,).
        names: Names of the features.
        fitted_on: What the file says about its source.
        points: The most points of a curve, at quantiles.
        ridge: Weight of the squared rises.
    """
    at = [_points(column, points) for column in features.T]
    steps = np.hstack([_steps(column, where) for column, where in zip(features.T, at, strict=True)])
    centre = steps.mean(axis=0)
    intercept, rises = _newton(steps - centre, correct.astype(float), ridge)
    curves, start = {}, 0
    for name, where in zip(names, at, strict=True):
        own = slice(start, start + len(where) - 1)
        adds = np.concatenate([[0.0], np.cumsum(rises[own])]) - rises[own] @ centre[own]
        curves[name] = Curve(tuple(_rounded(where)), tuple(_rounded(adds)))
        start = own.stop
    return Curves(round(float(intercept), DIGITS), curves, fitted_on)


def _points(column: np.ndarray, count: int) -> np.ndarray:
    """Quantiles, rounded; the whole range where they all fall together."""
    at = np.unique(np.quantile(column, np.linspace(0.01, 0.99, count)).round(DIGITS))
    if len(at) < 2:
        at = np.unique([column.min().round(DIGITS), column.max().round(DIGITS)])
    return at if len(at) > 1 else np.array([at[0], at[0] + 1.0])


def _steps(column: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How far each stretch between two points has been walked, from 0 to 1: (answers, points - 1)."""
    return np.clip((column[:, None] - at[:-1]) / np.diff(at), 0.0, 1.0)


def _newton(steps: np.ndarray, correct: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
    inputs = np.hstack([np.ones((len(steps), 1)), steps])
    penalty = np.full(inputs.shape[1], ridge)
    penalty[0] = 0.0
    weights = np.zeros(inputs.shape[1])
    for _ in range(30):
        expected = probabilities(inputs @ weights)
        gradient = inputs.T @ (correct - expected) - penalty * weights
        curvature = (inputs * (expected * (1.0 - expected))[:, None]).T @ inputs + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-6:
            break
    return float(weights[0]), weights[1:]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
