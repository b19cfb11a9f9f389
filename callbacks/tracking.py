"""Tells the run's trackers what its numbers do not say: settings, tables of self-edits and accuracies, the policy.

Which tracker takes what is up to `seal_lightning.trackers`, a class for each kind of logger. Scalars reach them by
Lightning's own way. Only the first rank tells anything, and a tracker that fails ends no run.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from seal_lightning.errors import ConfigError, SealError
from seal_lightning.hooks import SEALCallback
from seal_lightning.records.journal import read_validations
from seal_lightning.report.writing import write_report
from seal_lightning.results.accuracy import accuracy_table, json_object, rounds_table
from seal_lightning.results.rollout_tables import accuracies_table, answers_table, best_and_worst, edits_table
from seal_lightning.results.table import Table
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.trackers import TRACKERS, Tracker, tracker_of
from seal_lightning.trackers.base import flat
from seal_lightning.trackers.surviving import is_lost, surviving
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

log = logging.getLogger(__name__)

# The columns of TensorBoard's HPARAMS tab, by command.
FIGURES = {
    "fit": ("val/base", "val/passage", "val/edits", "reward/mean", "reward/best", "e_step/success_frac"),
    "validate": ("val/base", "val/passage", "val/edits"),
    "test": ("test/base", "test/passage", "test/edits"),
}


class Trackers(SEALCallback):
    """Logs settings, tables and artifacts to every logger of the trainer that can take them.

    Args:
        tables: Log tables: the best and worst self-edits of each round, all of them with their prompts, their answers,
            and the accuracies.
        artifacts: After a fit, log `policy/` and the report where a tracker takes files; a logger's `log_model` adds
            checkpoints.
        best: How many of the best and how many of the worst self-edits.
        max_rows: Most rows of a table; its last row says how many more are in the journal.
    """

    adapters: ClassVar[tuple[type[Tracker], ...]] = TRACKERS

    def __init__(self, *, tables: bool = True, artifacts: bool = True, best: int = 5, max_rows: int = 500) -> None:
        if best < 1 or max_rows < 1:
            raise ConfigError(f"trackers.best and trackers.max_rows must be at least 1, got {best} and {max_rows}")
        self.tables = tables
        self.artifacts = artifacts
        self.best = best
        self.max_rows = max_rows

    # -- what is told, and when --------------------------------------------------------------------------------------

    def on_run_begin(self, trainer: Any, module: Any) -> None:
        settings = flat(safe_to_save(dict(getattr(trainer, "run_settings", None) or {})))
        if settings:
            figures = FIGURES.get(str(getattr(trainer.state.fn, "value", "")), ())
            for tracker in self._working(trainer):
                with surviving(tracker.logger):
                    tracker.settings(settings, metrics=figures)

    def on_e_step_end(
        self,
        trainer: Any,
        module: Any,
        *,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
    ) -> None:
        last = trainer.checkpoints / "last.ckpt"  # of the round before, until this one's M-step
        for tracker in self._working(trainer):
            if tracker.takes_files and tracker.log_model == "all" and module.rounds_done and last.is_file():
                name = f"checkpoint-round-{module.rounds_done:03d}"
                self._send(tracker, name, [last], "model", {"round": module.rounds_done})
        ranked = best_and_worst(groups, kept, count=self.best)
        rows = tuple((table.title.lower(), *row) for table in ranked for row in table.rows)
        tables = {
            "best_and_worst": Table("", ("", *ranked[0].header), rows),
            "edits": edits_table(rollouts, kept),
            "answers": answers_table(rollouts),
        }
        self._log(trainer, module, tables)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "validate":
            self._log_evaluation(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._log_evaluation(trainer, pl_module, "test")

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        rollouts = pl_module.evaluated
        self._log(
            trainer, pl_module, {"predict_edits": edits_table(rollouts), "predict_answers": answers_table(rollouts)}
        )

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        run = Path(trainer.default_root_dir)
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        if validations := read_validations(run):
            self._log(trainer, pl_module, {"accuracy_fit": accuracies_table(rounds_table(validations))})
        takers = [tracker for tracker in self._working(trainer) if tracker.takes_files]
        for name, paths, kind, about in _artifacts(run) if takers and self.artifacts else ():
            for tracker in takers:
                self._send(tracker, name, paths, kind, about)
        for tracker in takers:
            if tracker.log_model:
                for path in sorted(trainer.checkpoints.glob("*.ckpt")):
                    self._send(tracker, f"checkpoint-{path.stem}", [path], "model", {"round": pl_module.rounds_done})

    # -- how it is told ----------------------------------------------------------------------------------------------

    def _working(self, trainer: Any) -> Iterator[Tracker]:
        """Those that have not failed; none on other ranks than the first."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if not is_lost(logger):
                yield tracker_of(logger, self.adapters)

    def _log(self, trainer: Any, module: Any, tables: Mapping[str, Table]) -> None:
        if not self.tables:
            return
        for tracker in self._working(trainer):
            for name, table in tables.items():
                if table.rows and not is_lost(tracker.logger):
                    with surviving(tracker.logger):
                        content = table.first(self.max_rows)
                        rows = safe_to_save([list(row) for row in content.rows])
                        safe = Table(content.title, content.header, tuple(map(tuple, rows)))
                        tracker.table(f"tables/{name}", safe, round=module.rounds_done, step=trainer.global_step)

    def _log_evaluation(self, trainer: Any, module: Any, command: str) -> None:
        rollouts = module.evaluated
        tables = {
            f"accuracy_{command}": accuracies_table(accuracy_table(rollouts)),
            f"{command}_edits": edits_table(rollouts),
            f"{command}_answers": answers_table(rollouts),
        }
        self._log(trainer, module, tables)

    def _send(self, tracker: Tracker, name: str, paths: Sequence[Path], kind: str, about: Mapping[str, object]) -> None:
        if not is_lost(tracker.logger):
            with surviving(tracker.logger):
                tracker.files(name, paths, kind=kind, about=about)


def _artifacts(run: Path) -> Iterator[tuple[str, list[Path], str, Mapping[str, object]]]:
    """Name, files, kind and facts of what is worth keeping of a fit; the report is written for it."""
    for name in ("policy", "policy-merged"):
        if (run / name).is_dir():
            chosen = json_object(run / name / "selection.json")  # its digests stay where they are checked
            about = {key: fact for key, fact in chosen.items() if fact is None or isinstance(fact, str | int | float)}
            yield name, [run / name], "model", about
    try:
        write_report([str(run)])
    except SealError as error:
        log.warning("no report for the trackers: %s", error)
    names = ("report.html", "report.md", "config.yaml")
    if paths := [run / name for name in names if (run / name).is_file()]:
        yield "report", paths, "report", {}
