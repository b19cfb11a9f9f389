"""Flags of Lightning's trainer that SEAL cannot honour, or whose values cannot work: refused before any work.

What every flag does is in `docs/flags.md`. Lightning checks the rest itself, when the trainer is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seal_lightning.errors import ConfigError, check_count


def check_flags(flags: Mapping[str, Any]) -> None:
    """Look at a trainer's flags, by their names; what is missing has its default.

    Raises:
        ConfigError: One of them would be ignored, or stop the run in its middle.
    """
    interval = flags.get("val_check_interval")
    if interval is not None and not (isinstance(interval, float) and interval == 1.0):
        raise ConfigError(
            f"trainer.val_check_interval must be 1.0 or null, got {interval!r}: a policy is validated once its round "
            "is over and merged; use trainer.check_val_every_n_epoch, which counts rounds"
        )
    check_count("trainer.check_val_every_n_epoch", flags.get("check_val_every_n_epoch", 1), advice="it counts rounds")
    check_count("trainer.accumulate_grad_batches", flags.get("accumulate_grad_batches", 1))
    check_count("trainer.num_sanity_val_steps", flags.get("num_sanity_val_steps") or 0, least=-1)
    check_count("trainer.log_every_n_steps", flags.get("log_every_n_steps") or 0, least=0)
    if flags.get("model_registry") is not None:
        raise ConfigError(
            f"trainer.model_registry must be null, got {flags['model_registry']!r}: nothing is uploaded to Lightning's "
            "registry; policy/ in the run folder is what can be shared"
        )
