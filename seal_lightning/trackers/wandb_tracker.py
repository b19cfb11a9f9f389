"""Weights & Biases: settings as the run's config, tables as `wandb.Table`, files as artifacts, rounds as the x axis."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from seal_lightning.errors import reason_of
from seal_lightning.results.table import Table
from seal_lightning.trackers.base import Tracker

log = logging.getLogger(__name__)

BY_ROUND = ("val/*", "test/*", "reward/*", "reward_terms/*", "e_step/*", "edits/*", "retention/*", "tables/*")


class WandbTracker(Tracker):
    """Of Lightning's `WandbLogger`.

    Settings keep their dotted names, since a W&B sweep gives them so to the command line, and into the config.
    """

    logger_class = WandbLogger
    takes_files = True

    @rank_zero_only
    def open(self) -> None:
        """Start the run; offline where nobody is logged in or the server cannot be reached. Never asks for a key."""
        import wandb
        from wandb.errors import CommError

        options = self.logger._wandb_init  # of `wandb.init`, which Lightning calls
        if options.get("anonymous", "") is None:
            del options["anonymous"]  # of which wandb says that it has no effect
        asked = self.logger._offline or options.get("mode") or wandb.Settings().mode in ("offline", "disabled")
        if not asked and wandb.run is None and not wandb.login(prompt=False, verify=False):
            self._go_offline("nobody is logged in (wandb login, or WANDB_API_KEY)")
        try:
            run = self.logger.experiment
        except CommError as error:
            self._go_offline(reason_of(error)[:200])
            run = self.logger.experiment
        run.define_metric("round", hidden=True)
        for names in BY_ROUND:
            run.define_metric(names, step_metric="round")

    def _go_offline(self, reason: str) -> None:
        self.logger._wandb_init["mode"] = "offline"
        folder = Path(self.logger.save_dir or ".") / "wandb"
        log.warning(
            "WandbLogger: %s: recorded offline; send it later with: wandb sync %s/offline-run-*", reason, folder
        )

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
