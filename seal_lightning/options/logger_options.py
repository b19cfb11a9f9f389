"""Loggers from the command line write into the run folder, like the run itself, unless they are told another place."""

from __future__ import annotations

import os
from argparse import Action
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import Namespace

from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install

RUN_FOLDER = ""  # stands for a logger's `save_dir` until the run folder is known


def need_no_folder(actions: Iterable[Action]) -> None:
    """Make `save_dir` optional among the options of a logger's class."""
    for action in actions:
        if action.dest == "save_dir":
            action.required, action.default = False, RUN_FOLDER


def place_loggers(trainer: Namespace, run: str) -> None:
    """Fill in the places that loggers were not told.

    Args:
        trainer: Options of the trainer; `logger` may be one with `class_path` and `init_args`, several, or neither.
        run: The run folder.

    Raises:
        ConfigError: A package that a logger needs is not installed.
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
                import_module("mlflow")  # before log levels are set, because it sets its own
            if not options.tracking_uri:
                _place_mlflow(options, Path(str(options.save_dir if told else run)))


def _place_mlflow(options: Namespace, folder: Path) -> None:
    """Use a database in the folder: MLflow has dropped the plain files that Lightning would use."""
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
