"""TensorBoard: settings for its HPARAMS tab, tables as its texts (Markdown, escaped)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger

from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.trackers.base import Tracker

LONGEST = 300  # characters of a cell, as in the tables of the run folder


class TensorBoardTracker(Tracker):
    """Of Lightning's `TensorBoardLogger`."""

    logger_class = TensorBoardLogger

    def settings(self, settings: Mapping[str, object], *, metrics: Sequence[str]) -> None:
        """For the HPARAMS tab, whose columns of `metrics` get their values from the run's own scalars."""
        from torch.utils.tensorboard.summary import hparams

        plain = {name: "null" if value is None else value for name, value in settings.items()}
        writer = self.logger.experiment._get_file_writer()  # as Lightning does; `add_hparams` would start a run beside
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):  # names only, the zeros are written nowhere
            writer.add_summary(summary)
        self.logger.hparams.update(settings)
        path = os.path.join(self.logger.log_dir, self.logger.NAME_HPARAMS_FILE)
        save_hparams_to_yaml(path, self.logger.hparams)  # `save` has written it already, empty
        self.logger.experiment.flush()

    def table(self, name: str, table: Table, *, round: int, step: int) -> None:
        text = to_markdown(table, cell=partial(markdown_cell, longest=LONGEST))
        self.logger.experiment.add_text(name, text, global_step=step)
