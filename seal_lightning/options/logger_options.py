"""Where loggers of the command line write that were told no place: into the run folder, as everything of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install

RUN_FOLDER = ""  # in place of a logger's `save_dir`, until the run folder is known


def need_no_folder(actions: Iterable[Any]) -> None:
    """Make `save_dir`, of the options of a logger's class, one that may be left out."""
    for action in actions:
        if action.dest == "save_dir":
            action.required, action.default = False, RUN_FOLDER


def place_loggers(trainer: Any, run: str) -> None:
    """Fill in what loggers were not told.

    Args:
        trainer: Its options, in which `logger` may be one with `class_path` and `init_args`, several, or neither.
        run: The run folder.

    Raises:
        ConfigError: What a logger needs is not installed.
    """
    given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in given:
        options = getattr(logger, "init_args", None)
        if options is None:
            continue
        told = "save_dir" not in options or options.save_dir not in (RUN_FOLDER, None)
        if not told:
            options.save_dir = run
        if logger.class_path.rpartition(".")[2] == "MLFlowLogger":
            if find_spec("mlflow"):
                import_module("mlflow")  # before levels of logs are set, since it sets its own
            if not options.tracking_uri:
                _place_mlflow(options, Path(str(options.save_dir if told else run)))


def _place_mlflow(options: Any, folder: Path) -> None:
    """A database in the folder: MLflow has given up its runs in plain files, which Lightning takes by default."""
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() == "true":
        options.save_dir = str(folder / "mlruns")
        return
    if missing := [name for name in ("mlflow", "sqlalchemy", "alembic") if find_spec(name) is None]:
        raise ConfigError(
            f"trainer.logger: MLFlowLogger needs {' and '.join(missing)}: {install('loggers')}, or "
            "give it the tracking_uri of a server"
        )
    folder = folder.expanduser().absolute()
    options.tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
    if not options.artifact_location:
        options.artifact_location = (folder / "mlruns").as_uri()
