"""What the screen shows: bars with counts and time left on a terminal, one line an event in a log file.

It takes the place of Lightning's progress bar, since a round is mostly E-step. The status lines are printed in both
cases; bars only on a terminal and only by the first process.
"""

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import TaskID

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import SEALCallback
from seal_lightning.progress.clock import Progress as UnitProgress
from seal_lightning.progress.screen import Bars, Pace, duration, plain_console, print_line, progress_bars
from seal_lightning.results.accuracy import evaluation_means
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.text.plural import counted
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


class EStepProgress(ProgressBar, SEALCallback):
    """Shows the progress of E-step, M-step and validation.

    Args:
        bars: Draw bars; by default only where the output is a terminal.
        every_seconds: In a log, print at most one line of progress within an E-step in this many seconds, on units that
            are finished or, where none is, on the work at hand.
    """

    def __init__(self, *, bars: bool | None = None, every_seconds: float = 30.0) -> None:
        super().__init__()
        if every_seconds < 0:
            raise ConfigError(f"progress.every_seconds must be 0 or more, got {every_seconds}")
        self.every_seconds = every_seconds
        self.console = plain_console()
        self.bars = self.console.is_terminal if bars is None else bars
        self._enabled = True
        self._live: Bars | None = None
        self._losses: list[float] = []
        self._m_step_started: float | None = None
        self._round = ""

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not trainer.is_global_zero:
            self.disable()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def line(self, text: str) -> None:
        """Print one status line (above the bars, where there are any)."""
        if self._enabled:
            print_line(self._live.console if self._live else self.console, text)

    # -- units of the E-step, validation and test ------------------------------------------------------------------

    def on_units_start(self, trainer: Trainer, module: Any, *, phase: str, units: int, finished: int) -> None:
        rounds = module.rounds_done
        after = f"validation after round {rounds}" if rounds else "validation before training"
        self._round = {"train": f"round {rounds + 1} E-step", "validation": after}.get(phase, phase)
        self._pace = Pace(units, done=finished, every_seconds=self.every_seconds)
        self._latest: Sequence[Rollout] = ()
        if finished:
            self.line(f"{self._round}: {finished} of {units} units are in the journal already")
        self._start()
        self._unit_bar = self._bar(self._round, units)
        self._phase_bar = self._bar("", None)

    def on_unit_progress(self, trainer: Trainer, module: object, *, phase: str, progress: UnitProgress) -> None:
        if self._live:
            self._live.update(
                self._phase_bar, description=f"  {progress.phase}", completed=progress.done, total=progress.total
            )
        elif self._pace.is_silent():  # units that take long, and many of them at a time on a GPU
            self.line(f"{self._round}: {progress.phase} {progress.done}/{progress.total}")

    def on_unit_end(
        self, trainer: Trainer, module: object, *, phase: str, unit: int, rollouts: Sequence[Rollout]
    ) -> None:
        self._latest = rollouts if phase != "predict" else ()  # which scores nothing

    def on_units_progress(self, trainer: Trainer, module: object, *, phase: str, finished: int) -> None:
        """One bar for all ranks; in a log, a line from time to time."""
        if self._live:
            self._live.update(self._unit_bar, completed=finished)
        elif left := self._pace.left(finished):
            scores = f"{_scores(self._latest)}, " if self._latest else ""
            self.line(f"{self._round}: unit {finished}/{self._pace.total}, {scores}{left}")

    def on_units_end(
        self,
        trainer: Trainer,
        module: object,
        *,
        phase: str,
        rollouts: Sequence[Rollout],
        seconds: Sequence[Sequence[float]],
    ) -> None:
        self._stop()
        if phase == "validation":
            contexts = len({rollout.context_id for rollout in rollouts})
            spent = duration(self._pace.spent)
            self.line(f"{self._round}: {_scores(rollouts)} ({contexts} contexts), {spent}")
        if len(seconds) > 1 and any(seconds):
            times = [f" in {fmean(spent):.1f} s each" if spent else "" for spent in seconds]
            ranks = [f"rank {rank} {len(seconds[rank])} units{each}" for rank, each in enumerate(times)]
            self.line(f"{self._round}: {', '.join(ranks)}")

    def on_e_step_end(
        self,
        trainer: Trainer,
        module: Any,
        *,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
    ) -> None:
        metrics = module.e_step_metrics
        diverged, poor = metrics.get("e_step/diverged_frac", 0.0), int(metrics.get("e_step/kept_without_merit", 0))
        lost = f", {diverged:.0%} diverged" if diverged else ""
        merit = f" ({poor} of them without merit)" if poor else ""
        self.line(
            f"{self._round}: reward {metrics['reward/mean']:.3f} on average, {metrics['reward/best']:.3f} for "
            f"the best of each context; {metrics['e_step/rejected_frac']:.0%} rejected{lost}, "
            f"{counted(len(kept), 'edit')} kept{merit}, {duration(metrics['e_step/seconds'])}"
        )
        if (spent := metrics.get("racing/spent_frac")) is not None:
            dropped = len({(one.context_id, one.edit_index) for one in rollouts if one.dropped})
            gone = counted(dropped, "edit")
            self.line(f"{self._round}: raced with {spent:.0%} of the full inner loop, {gone} dropped")
        names = [name for name in metrics if name.startswith("reward_terms/") and not name.endswith("_std")]
        terms = [
            f"{name.removeprefix('reward_terms/')} {metrics[name]:.3f} ± {metrics[f'{name}_std']:.3f}" for name in names
        ]
        if terms:  # where the reward is made of more than one: their means and standard deviations
            self.line(f"{self._round}: {' · '.join(terms)}")
        if module.m_step_told:
            self.line(f"round {trainer.current_epoch + 1} M-step: {module.m_step_told}")
        if usage := render_usage(total_usage(rollouts)):
            self.line(f"{self._round}: {usage}")

    # -- M-step ----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not pl_module.kept:
            self.line(f"round {trainer.current_epoch + 1}: no self-edit was kept, the M-step is skipped")
        elif not pl_module.taught:
            self.line(f"round {trainer.current_epoch + 1}: there is nothing to learn, the M-step is skipped")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: object, batch_idx: int) -> None:
        if self._m_step_started is None:  # the first batch, also of an M-step that is resumed half way
            self._m_step_started, self._losses = time.monotonic(), []
            self._start()
            self._batch_bar = self._bar(f"round {trainer.current_epoch + 1} M-step", int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        self._losses.append(float(trainer.callback_metrics.get("m_step/loss", float("nan"))))
        if self._live:
            self._live.update(self._batch_bar, completed=batch_idx + 1)
        if batch_idx + 1 >= trainer.num_training_batches:
            self._stop()
            spent, self._m_step_started = time.monotonic() - (self._m_step_started or 0.0), None
            sequences = trainer.shares.batches * pl_module.m_step.batch_size  # of an optimizer step
            ranks = "" if trainer.shares.places == 1 else f" of each rank, effective batch {sequences}"
            epoch = max(1, len(self._losses) // pl_module.m_step.epochs)
            self.line(
                f"round {trainer.current_epoch + 1} M-step: loss {fmean(self._losses[:epoch]):.3f} in the first epoch, "
                f"{fmean(self._losses[-epoch:]):.3f} in the last, {counted(len(self._losses), 'batch')}"
                f"{ranks}, {duration(spent)}"
            )

    def on_m_step_end(self, trainer: Trainer, module: Any) -> None:
        beside = {name: value for name, value in module.m_step_metrics.items() if name.startswith("m_step/mean_")}
        beside.pop("m_step/mean_loss", None)
        if beside:  # in the last epoch
            told = " · ".join(f"{name.removeprefix('m_step/mean_')} {value:.3f}" for name, value in beside.items())
            self.line(f"round {trainer.current_epoch + 1} M-step: {told}")

    # -- bars ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._stop()
        if self.bars and self._enabled:
            self._live = progress_bars(self.console)
            self._live.start()

    def _bar(self, label: str, total: int | None) -> TaskID:
        return self._live.add_task(label, total=total) if self._live else TaskID(0)

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def _scores(rollouts: Sequence[Rollout]) -> str:
    """Accuracies of some rollouts, in the order base, passage, edits, written."""
    marked = all(rollout.terms and not rollout.baseline_scores for rollout in rollouts)  # a rubric asks nothing
    means = {name: mean for name, mean in evaluation_means(rollouts).items() if not (marked and name == "base")}
    return " · ".join(f"{name} {mean:.3f}" for name, mean in means.items())
