"""Lightning's Trainer with SEAL's fit loop in place of its own; every other option is Lightning's.

One epoch is one round, so `max_epochs` is the number of rounds. The run folder is `default_root_dir`: journal,
checkpoints, logs and tables all lie there, and `ckpt_path` `last` and `best` mean the ones in it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from seal_lightning.errors import ConfigError
from seal_lightning.loop import MStepLoop, SEALFitLoop


class SEALTrainer(Trainer):
    """Trainer of SEAL.

    Args:
        max_epochs: Rounds, each one E-step and its M-step (paper: 2).
        default_root_dir: The run folder.
        validate_first: Validate the untrained policy before the first round, for the comparison.
        logger: Lightning loggers; TensorBoard and CSV in the run folder by default, `false` for none.
        log_every_n_steps: Of the M-step, which is short.
    """

    def __init__(
        self,
        *args: Any,
        max_epochs: int | None = 2,
        default_root_dir: str = "runs/seal",
        validate_first: bool = True,
        logger: Logger | Iterable[Logger] | bool | None = None,
        log_every_n_steps: int = 1,
        inference_mode: bool = False,
        num_sanity_val_steps: int = 0,
        enable_model_summary: bool = False,
        **kwargs: Any,
    ) -> None:
        if logger is None or logger is True:
            logger = [TensorBoardLogger(default_root_dir, name="tensorboard"), CSVLogger(default_root_dir, name="csv")]
        super().__init__(
            *args,
            max_epochs=max_epochs,
            default_root_dir=default_root_dir,
            logger=logger,
            log_every_n_steps=log_every_n_steps,
            inference_mode=inference_mode,
            num_sanity_val_steps=num_sanity_val_steps,
            enable_model_summary=enable_model_summary,
            **kwargs,
        )
        plain = self.fit_loop
        self.fit_loop = SEALFitLoop(self, plain.min_epochs, plain.max_epochs, validate_first=validate_first)
        self.fit_loop.epoch_loop = MStepLoop(self, plain.min_steps, plain.max_steps)

    # Checkpoints hold tensors and plain values only, so loading them never runs code (weights_only).

    @property
    def checkpoints(self) -> Path:
        """The folder with `last.ckpt` and `best.ckpt`."""
        return Path(self.default_root_dir) / "checkpoints"

    def fit(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """As Lightning's; `last` with no checkpoint yet starts from the journal.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        if ckpt_path == "last" and not (self.checkpoints / "last.ckpt").exists():
            ckpt_path = None
        super().fit(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def validate(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Base, passage and self-edit accuracy on the validation contexts.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        return super().validate(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def test(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Base, passage and self-edit accuracy on the test contexts.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        return super().test(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def predict(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Self-edits for the predict contexts.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        return super().predict(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def find_checkpoint(self, ckpt_path: str | None) -> str | None:
        """The file behind `last`, `best` or a path. Raises `ConfigError` where there is none."""
        if ckpt_path is None:
            return None
        path = self.checkpoints / f"{ckpt_path}.ckpt" if ckpt_path in ("last", "best") else Path(ckpt_path)
        if not path.is_file():
            raise ConfigError(
                f"--ckpt_path {ckpt_path}: there is no file {path}; give last, best or a checkpoint of seal fit"
            )
        try:
            found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)  # reads the index only
        except Exception as error:  # a file that is no checkpoint fails in as many ways as there are files
            raise _no_checkpoint(ckpt_path, path) from error
        if not isinstance(found, dict) or "seal" not in found:
            raise _no_checkpoint(ckpt_path, path)
        return str(path)


def _no_checkpoint(ckpt_path: str, path: Path) -> ConfigError:
    return ConfigError(
        f"--ckpt_path {ckpt_path}: {path} is damaged, or no checkpoint of seal fit; give last, best or another one"
    )
