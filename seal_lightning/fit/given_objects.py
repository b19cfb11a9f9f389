"""What is handed to a `SEALTrainer`, checked before any work: a module of ours, and a data module of ours.

SEAL has no training loader to take: a round makes its training data itself, from the contexts of the data module.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from seal_lightning.data import SEALDataModule
from seal_lightning.errors import ConfigError
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.monitored import check_monitors
from seal_lightning.hooks import the_filter

_SPLITS = {"fit": "train", "validate": "validation", "test": "test", "predict": "predict"}


def checked(trainer: Any, command: str, *, model: Any, loaders: Any, datamodule: Any) -> tuple[SEALModule, Any]:
    """The module and the data module of a command; of the one before where they are not given again.

    Args:
        trainer: The `SEALTrainer`, which remembers them.
        command: fit, validate, test or predict.
        model: As it was given, None for that of the run before (not for fit).
        loaders: What was given where Lightning takes loaders; a data module is taken there, too.
        datamodule: As it was given.

    Raises:
        ConfigError: One is missing or of another kind, or the filter of a fit is, or what a callback monitors.
    """
    if datamodule is None and isinstance(loaders, LightningDataModule):
        loaders, datamodule = None, loaders
    model = model if model is not None else trainer.lightning_module
    datamodule = datamodule if datamodule is not None else trainer.datamodule
    call = f"trainer.{command}(module, datamodule=SEALDataModule({_SPLITS[command]}=...))"
    if not isinstance(model, SEALModule):
        raise ConfigError(f"trainer.{command}: expected a SEALModule, got {_name(model)}: call {call}")
    if loaders is not None:
        raise ConfigError(
            f"trainer.{command}: expected a SEALDataModule, got loaders: SEAL reads contexts, give them as {call}"
        )
    if not isinstance(datamodule, SEALDataModule):
        raise ConfigError(f"trainer.{command}: expected a SEALDataModule, got {_name(datamodule)}: call {call}")
    if command == "fit":
        the_filter(trainer.callbacks)
        validated = bool(datamodule.sources["validation"]) and trainer.limit_val_batches != 0
        check_monitors(trainer.callbacks, model, validated=validated)
    return model, datamodule


def _name(value: Any) -> str:
    return "none" if value is None else value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
