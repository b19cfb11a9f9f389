"""MLflow: settings as parameters (which it never lets change), tables by `log_table`, files as artifacts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger

from seal_lightning.results.table import Table
from seal_lightning.trackers.base import Tracker

log = logging.getLogger(__name__)

SHOWN = 5  # changed parameters that a line names


class MLflowTracker(Tracker):
    """Tracker for Lightning's `MLFlowLogger`."""

    logger_class = MLFlowLogger
    takes_files = True

    def settings(self, settings: Mapping[str, object], *, metrics: Sequence[str]) -> None:
        """New ones as parameters, those that a resumed run has changed as tags `changed.NAME`."""
        from mlflow.entities import Param, RunTag
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        client, run = self.logger.experiment, self.logger.run_id
        known = client.get_run(run).data.params
        names = {name: re.sub(r"[^\w.\- :/]", "_", name)[:250] for name in settings}  # as MLflow takes them
        told = {names[name]: _value(value, MAX_PARAM_VAL_LENGTH) for name, value in settings.items()}
        changed = {name: value for name, value in told.items() if name in known and known[name] != value}
        new = [Param(name, value) for name, value in told.items() if name not in known]
        tags = [RunTag(f"changed.{name}"[:250], value) for name, value in changed.items()]
        size = MAX_PARAMS_TAGS_PER_BATCH
        for start in range(0, max(len(new), len(tags)), size):
            client.log_batch(run, params=new[start : start + size], tags=tags[start : start + size])
        if changed:
            named = ", ".join(f"{name}={value} (was {known[name]})" for name, value in list(changed.items())[:SHOWN])
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            log.warning(
                "MLFlowLogger: the parameters of run %s cannot change: %s%s are in its tags changed.*", run, named, more
            )

    def table(self, name: str, table: Table, *, round: int, step: int) -> None:
        """A file for each round. What a resumed run did before is the same again, and is there already."""
        client, run = self.logger.experiment, self.logger.run_id
        place = f"{name}-round-{round:03d}.json"
        if place in {file.path for file in client.list_artifacts(run, str(Path(place).parent))}:
            return
        columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.header)
        client.log_table(run, {key: list(cells) for key, cells in zip(table.header, columns, strict=True)}, place)

    def files(self, name: str, paths: Sequence[Path], *, kind: str, about: Mapping[str, object]) -> None:
        client, run = self.logger.experiment, self.logger.run_id
        for path in paths:
            if path.is_dir():
                client.log_artifacts(run, str(path), name)
            else:
                client.log_artifact(run, str(path), name)


def _value(value: object, longest: int) -> str:
    """A value as MLflow takes it; null by the name that it has in YAML."""
    text = "null" if value is None else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
