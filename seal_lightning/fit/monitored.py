"""The metrics that callbacks monitor, checked before any work: a misspelt one would be found out after a round.

A callback or module from outside this package may log metrics of any name, so then nothing is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping

from seal_lightning.errors import ConfigError
from seal_lightning.results.verdict import ACCURACIES
from seal_lightning.stamps.code import is_outside

_ROUND = (
    "round epoch step reward/mean reward/best reward/std_within_context m_step/loss m_step/loss_step m_step/loss_epoch "
    "e_step/rejected_frac e_step/diverged_frac e_step/kept e_step/kept_without_merit e_step/kept_frac "
    "e_step/success_frac e_step/seconds e_step/adapter_steps_per_s edits/diversity edits/characters edits/tokens"
).split()
# Whose names are those of reward terms, endpoints' usage and what was cut.
_FAMILIES = ("reward_terms/", "left_out/", "endpoint/", "thoughts/", "racing/")


def check_monitors(callbacks: Iterable[Any], module: Any, *, validated: bool) -> None:
    """Refuse what no round of the fit would have.

    Args:
        callbacks: Of the trainer.
        module: The module to fit.
        validated: Whether rounds are validated.

    Raises:
        ConfigError: A callback monitors a metric that is never logged.
    """
    callbacks = list(callbacks)
    if any(is_outside(kind.__module__) for one in (module, *callbacks) for kind in type(one).__mro__):
        return
    known = [*ACCURACIES, *_ROUND]
    for one in callbacks:
        monitor = getattr(one, "monitor", None)
        if not isinstance(monitor, str) or monitor.startswith(_FAMILIES):
            continue
        name = type(one).__name__
        if monitor not in known:
            near = get_close_matches(monitor, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"{name}: monitor={monitor!r} is logged by nothing in this run: did you mean {near[0]!r}?"
            )
        if monitor in ACCURACIES and not validated and isinstance(one, EarlyStopping) and one.strict:
            raise ConfigError(
                f"{name}: monitor={monitor!r} needs validation, and this run has none: give data.validation with "
                "trainer.limit_val_batches above 0, or monitor 'reward/mean'"
            )
