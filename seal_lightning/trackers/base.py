"""The base of all trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger

from seal_lightning.results.table import Table


class Tracker:
    """A logger that takes settings as Lightning hands them over, and neither tables nor files.

    Args:
        logger: Of Lightning.

    Attributes:
        logger_class: The loggers that a class of trackers is for.
        takes_files: Whether `files` does something.
    """

    logger_class: ClassVar[type] = Logger
    takes_files: ClassVar[bool] = False

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def open(self) -> None:
        """Start the logger: it may make files, or a run on its server. On every rank."""
        getattr(self.logger, "experiment", None)

    def settings(self, settings: Mapping[str, object], *, metrics: Sequence[str]) -> None:
        """Log hyper-parameters.

        Args:
            settings: Plain values by dotted names; the same run may have been told others before.
            metrics: The figures by which runs are compared.
        """
        self.logger.log_hyperparams(dict(settings))

    def table(self, name: str, table: Table, *, round: int, step: int) -> None:
        """Log a table; later ones of the same name are of later rounds.

        Args:
            name: Its key.
            table: What is in it.
            round: Rounds before it.
            step: Optimizer steps before it.
        """

    def files(self, name: str, paths: Sequence[Path], *, kind: str, about: Mapping[str, object]) -> None:
        """Log files and folders under one name.

        Args:
            name: What it is called there.
            paths: Where they lie.
            kind: `model`, or what else it is.
            about: What is known of it, plain values.
        """

    @property
    def log_model(self) -> bool | str:
        """Lightning's option of that name: whether checkpoints go there too, `all` for every round's."""
        return getattr(self.logger, "_log_model", False)  # no logger tells it in public


def flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings by the names that they have on the command line; lists of plain values become one text.

    >>> flat({"model": {"sampler": {"class_path": "a.B", "init_args": {"top_p": 0.9}}, "terms": ["q", "k"]}})
    {'model.sampler.class_path': 'a.B', 'model.sampler.top_p': 0.9, 'model.terms': '["q", "k"]'}
    """
    return dict(_flat(settings, ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            if key != "init_args":
                yield from _flat(inner, f"{name}.{key}".lstrip("."))
            elif inner:
                yield from _flat(inner, name)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{name}.{index}")
    elif value is None or isinstance(value, str | int | float):
        yield name, value
    else:
        yield name, json.dumps(value, ensure_ascii=False, default=str)
