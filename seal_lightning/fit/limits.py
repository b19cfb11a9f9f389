"""How much of a phase is done: Lightning's limits on batches, which here count units of work.

A unit is what SEAL does at a time (`data.contexts_per_unit` contexts), so `limit_train_batches` limits those of an
E-step, and the other limits those of validation, test and prediction. They count over all ranks, which share units out.
The M-step trains on everything that was kept of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import RunTrainer

OPTIONS = {
    "train": "limit_train_batches",
    "validation": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
PHASES = {"train": "E-step", "validation": "validation", "test": "test", "predict": "prediction"}  # for readers


@dataclass(frozen=True, slots=True)
class Limit:
    """The first `units` of `total` units are done, as an option of the trainer says."""

    units: int
    total: int
    option: str = ""
    value: float = 1.0

    def __str__(self) -> str:
        return f"{self.units} of {self.total} units ({self.option}={self.value})"


def limit_of(trainer: RunTrainer, phase: str, total: int) -> Limit:
    """What a trainer's flags leave of a phase with `total` units.

    A whole number is a count and 1.0 is everything, as in Lightning.

    Raises:
        ConfigError: A share of the units is less than one of them.
    """
    value, option = getattr(trainer, OPTIONS[phase]), f"trainer.{OPTIONS[phase]}"
    if trainer.fast_dev_run:
        option = "trainer.fast_dev_run"
    elif trainer.overfit_batches and phase in ("train", "validation"):
        option = "trainer.overfit_batches"
    units = min(total, value) if isinstance(value, int) else int(total * value)
    if total and value and not units:
        raise ConfigError(
            f"{option} must be at least 1/{total} where {phase} has {total} units of data.contexts_per_unit contexts, "
            f"got {value}: try 1, which is one unit"
        )
    if trainer.sanity_checking:
        value, option = trainer.num_sanity_val_steps, "trainer.num_sanity_val_steps"
        units = int(min(units, value))
    return Limit(units, total, option, value)


def limits_said(limits: Mapping[str, Limit]) -> str:
    """`Limited: validation 3 of 8 units (trainer.limit_val_batches=3).`; empty where everything is done."""
    partial = [f"{PHASES[phase]} {limit}" for phase, limit in limits.items() if limit.units < limit.total]
    return f"Limited: {', '.join(partial)}." if partial else ""
