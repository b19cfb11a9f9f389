"""Weights & Biases: settings as the run's config, tables as `wandb.Table`, files as artifacts, rounds as the x axis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from seal_lightning.results.table import Table
from seal_lightning.trackers.base import Tracker

BY_ROUND = ("val/*", "test/*", "reward/*", "reward_terms/*", "e_step/*", "edits/*", "retention/*", "tables/*")


class WandbTracker(Tracker):
    """Tracker for Lightning's `WandbLogger`.

    Settings keep their dotted names, since a W&B sweep gives them so to the command line, and into the config.
    """

    logger_class = WandbLogger
    takes_files = True

    @rank_zero_only
    def open(self) -> None:
        """Make rounds the x axis of what is measured once a round."""
        run = self.logger.experiment
        run.define_metric("round", hidden=True)
        for names in BY_ROUND:
            run.define_metric(names, step_metric="round")

    def table(self, name: str, table: Table, *, round: int, step: int) -> None:
        import wandb

        content = wandb.Table(columns=list(table.header), data=[list(row) for row in table.rows])
        self.logger.log_metrics({name: content, "round": round}, step=step)

    def files(self, name: str, paths: Sequence[Path], *, kind: str, about: Mapping[str, object]) -> None:
        import wandb

        run = self.logger.experiment
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{name}-{run.id}"), type=kind, metadata=dict(about))
        policy = self.logger.add_file_policy
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), policy=policy)
            else:
                artifact.add_file(str(path), policy=policy)
        run.log_artifact(artifact)
