"""Trackio (of Hugging Face, in SQLite on this machine or in a Space): a logger for Lightning, which has none for it.

Settings become the run's config, tables `trackio.Table`, files its artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from seal_lightning.results.table import Table
from seal_lightning.trackers.base import Tracker

_AVAILABLE = find_spec("trackio") is not None


class TrackioLogger(Logger):
    """Logs to Trackio.

    Args:
        project: Of which the run is one.
        run_name: Of the run; one that is there is continued. By default Trackio invents one.
        space_id: A Space of the hub that the run is sent to; by default it stays on this machine.
        group: Of runs that belong together.

    Raises:
        ModuleNotFoundError: Trackio is not installed.
    """

    def __init__(
        self,
        project: str = "seal-lightning",
        run_name: str | None = None,
        space_id: str | None = None,
        group: str | None = None,
    ) -> None:
        if not _AVAILABLE:
            raise ModuleNotFoundError("TrackioLogger needs trackio: pip install 'trackio>=0.40'")
        super().__init__()
        self.project = project
        self.run_name = run_name
        self.space_id = space_id
        self.group = group
        self._run: Any = None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return self.run_name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, which begins when it is first asked for."""
        if self._run is None:
            self._run = import_module("trackio").init(
                self.project,
                name=self.run_name,
                space_id=self.space_id,
                group=self.group,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            self.run_name = self._run.name
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, object], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, object], *args: object, **kwargs: object) -> None:
        self.experiment.config.update(params)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            import_module("trackio").finish()  # of the run's own method Trackio's hook at exit would not know
            self._run = None


class TrackioTracker(Tracker):
    """Of `TrackioLogger`."""

    logger_class = TrackioLogger
    takes_files = True

    def table(self, name: str, table: Table, *, round: int, step: int) -> None:
        trackio: Any = import_module("trackio")
        content = trackio.Table(columns=list(table.header), data=[list(row) for row in table.rows])
        self.logger.experiment.log({name: content, "round": round}, step=step)

    def files(self, name: str, paths: Sequence[Path], *, kind: str, about: Mapping[str, object]) -> None:
        trackio: Any = import_module("trackio")
        artifact = trackio.Artifact(name, type=kind, metadata=dict(about))
        for path in paths:
            if path.is_dir():
                artifact.add_dir(path)
            else:
                artifact.add_file(path)
        self.logger.experiment.log_artifact(artifact)
