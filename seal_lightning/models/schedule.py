"""Learning rates over the steps of a training: one definition for the inner loop, the M-step and the lab."""

from __future__ import annotations

import math

from seal_lightning.types import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int, *, warmup: int = 0) -> float:
    """Share of the peak at `step` (from 0) of `steps`, as in transformers' schedules.

    Args:
        schedule: `linear` and `cosine` fall to 0 at the last step.
        step: The step; beyond the last one the factor is that of the end.
        steps: Steps of the whole training.
        warmup: Steps over which the rate rises linearly before it falls.
    """
    if step < warmup:
        return (step + 1) / warmup
    passed, falling = min(step, steps) - warmup, max(1, steps - warmup)
    match schedule:
        case "linear":
            return 1.0 - passed / falling
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * passed / falling))
        case "constant":
            return 1.0
