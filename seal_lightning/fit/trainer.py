"""Lightning's Trainer with SEAL's fit loop in place of its own; every other option is Lightning's.

One epoch is one round, so `max_epochs` is the number of rounds. The run folder is `default_root_dir`: journal,
checkpoints, logs and tables all lie there, and `ckpt_path` `last` and `best` mean the ones in it. Checkpoints hold
tensors and plain values only, so loading them never runs code (`weights_only`).
"""

import inspect
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.profilers import PyTorchProfiler

from seal_lightning.callbacks import CheckpointSelection
from seal_lightning.data import SEALDataModule
from seal_lightning.errors import ConfigError
from seal_lightning.files.saving import tidy
from seal_lightning.fit.base import FitTrainer
from seal_lightning.fit.checkpoint_file import WholeCheckpoints, fault_of
from seal_lightning.fit.checks import check_flags, check_slurm, check_strategy, checked
from seal_lightning.fit.ending import save_table
from seal_lightning.fit.executors import Executor, ProcessExecutor
from seal_lightning.fit.loggers import Loggers
from seal_lightning.fit.loop import MStepLoop, SEALFitLoop
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.processes import RunProcesses
from seal_lightning.fit.python_config import config_of, trainer_settings
from seal_lightning.fit.run_callbacks import with_defaults
from seal_lightning.fit.run_folder import RunFolder, SaveConfigBesideRun, check_folder, naming_disk
from seal_lightning.fit.stamp import save_finished
from seal_lightning.hooks import notify
from seal_lightning.m_step.batches import Shares
from seal_lightning.processes.cores import threads_kept
from seal_lightning.processes.watch import PATIENCE
from seal_lightning.results.verdict import said

log = logging.getLogger(__name__)
_signed_as = partial(wraps, assigned=())  # takes over the signature of a method of Lightning's, and nothing else


class SEALTrainer(FitTrainer):
    """Trainer of SEAL.

    Args:
        max_epochs: Rounds, each one E-step and its M-step (paper: 2).
        default_root_dir: The run folder.
        validate_first: Validate the untrained policy before the first round, for the comparison.
        logger: Lightning loggers; TensorBoard and CSV in the run folder by default, `false` for none.
        log_every_n_steps: Steps of the M-step, which is short, between two entries of the log.
        executor: Where units of work run: in a process a core for a small model on a CPU (default), in the training
            processes alone (`LocalExecutor`), or on a Ray cluster.
        allow_other_versions: Resume a run that other versions of seal-lightning or of its libraries began; the run
            writes down from which round on which versions hold.
        callbacks: Further callbacks; a filter, a `CheckpointSelection`, a `RolloutTable` or a progress bar takes the
            place of the one that a run has anyway.
        enable_checkpointing: Whether checkpoints and the best policy are saved; null is true.
        enable_checkpoint_selection: Whether that is done as `CheckpointSelection` does it; false leaves it to
            Lightning's `ModelCheckpoint`, which saves no policy.
        enable_progress_bar: Whether progress is shown; null is true.
        enable_rollout_table: Whether the tables of self-edits are written.
        enable_trackers: Whether loggers get settings, tables and artifacts besides numbers.
        barebones: Lightning's flag to measure its overhead.
        give_up_after: Seconds without a sign of life from another rank (its process is stopped, its node dead) after
            which the others end with its name; at most 60 once the run was asked to stop.
    """

    def __init__(
        self,
        *args: Any,
        max_epochs: int | None = 2,
        default_root_dir: str = "runs/seal",
        validate_first: bool = True,
        logger: Logger | Iterable[Logger] | bool | None = None,
        log_every_n_steps: int | None = 1,
        enable_checkpoint_selection: bool = True,
        executor: Executor | None = None,
        allow_other_versions: bool = False,
        give_up_after: float = PATIENCE,
        use_distributed_sampler: bool = False,
        inference_mode: bool = False,
        num_sanity_val_steps: int = 0,
        enable_model_summary: bool = False,
        callbacks: list[Callback] | Callback | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_rollout_table: bool = True,
        enable_trackers: bool = True,
        barebones: bool = False,
        **kwargs: Any,
    ) -> None:
        named = {"log_every_n_steps": log_every_n_steps, "num_sanity_val_steps": num_sanity_val_steps}
        check_flags({**kwargs, **named, "give_up_after": give_up_after})
        check_slurm(os.environ)
        if kwargs.get("profiler") == "pytorch":  # by default it records from the second batch on: no E-step
            kwargs["profiler"] = PyTorchProfiler(schedule=None, row_limit=-1)
        saved = {
            "enable_checkpointing": enable_checkpointing,
            "enable_checkpoint_selection": enable_checkpoint_selection,
        }
        shown = {"enable_progress_bar": enable_progress_bar, "enable_rollout_table": enable_rollout_table}
        flags = {**saved, **shown, "enable_trackers": enable_trackers, "barebones": barebones}
        super().__init__(
            *args,
            max_epochs=max_epochs,
            default_root_dir=default_root_dir,
            logger=_loggers(logger, default_root_dir, barebones=barebones),
            log_every_n_steps=None if barebones else log_every_n_steps,  # Lightning refuses to combine them
            use_distributed_sampler=use_distributed_sampler,
            inference_mode=inference_mode,
            num_sanity_val_steps=num_sanity_val_steps,
            enable_model_summary=enable_model_summary,
            callbacks=with_defaults(callbacks, **flags),
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            barebones=barebones,
            **kwargs,
        )
        check_strategy(self.strategy, sampler=use_distributed_sampler, devices=self.world_size)
        self.use_distributed_sampler = use_distributed_sampler
        self.executor = executor or ProcessExecutor()
        self.allow_other_versions = allow_other_versions
        self.validate_first = validate_first and not self.fast_dev_run
        self.processes = RunProcesses(self, patience=give_up_after)
        self._prepare()

    def _prepare(self) -> None:
        """Put SEAL's parts in place of Lightning's, and note what the user gave."""
        if self.fast_dev_run:
            self.callbacks = [callback for callback in self.callbacks if not isinstance(callback, CheckpointSelection)]
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = WholeCheckpoints()
        plain = self.fit_loop
        self.fit_loop = SEALFitLoop(self, plain.min_epochs, plain.max_epochs)
        self.fit_loop.epoch_loop = MStepLoop(self, plain.min_steps, plain.max_steps)
        self.folder = RunFolder(self, self.processes)
        self.shares = Shares(1, 1, 1)
        self.given_accumulation = self.accumulate_grad_batches
        self.run_settings = {}
        self.table = ""  # of the last fit, validation or test, as Markdown
        self._waiting_loggers = Loggers([])
        self._has_begun = False
        self._given_ckpt_path: str | None = None
        self._given_settings = trainer_settings(self)

    # -- a run -----------------------------------------------------------------------------------------------------

    def _run(
        self, model: LightningModule, ckpt_path: str | Path | None = None, weights_only: bool | None = None
    ) -> object:
        """A run from its checks to its end, in each of its processes."""
        self.processes.launched.watch(self.strategy.launcher)  # before the ranks meet, since one may be gone by then
        self._has_begun = False
        self._waiting_loggers = Loggers(self.loggers)
        try:
            with threads_kept():
                return super()._run(model, ckpt_path, weights_only)
        finally:
            self._waiting_loggers.end()

    def _run_stage(self) -> object:
        try:
            with self.processes.at_work():
                return super()._run_stage()
        finally:
            self.executor.close()

    @contextmanager
    def _at_work(self, command: str, module: SEALModule, ckpt_path: str | None) -> Iterator[None]:
        """A command owns its run folder, in which its table lies in the end; the processes of the run end together."""
        self.run_settings, self._given_ckpt_path, self.table = {}, ckpt_path, ""
        ending_together = self.processes.launched.ending_together(self.strategy.launcher)
        with self.folder.owned(), ending_together, naming_disk(self):
            check_folder(Path(self.default_root_dir), command)
            yield
            self.table = save_table(self, module, command)

    def begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        module = self.lightning_module
        assert isinstance(module, SEALModule)
        writer: SaveConfigBesideRun | None = None
        if self.is_global_zero:
            tidy(self.default_root_dir)
            writer = self._config_writer(module)
            self.run_settings = writer.settings() if writer else {}
        self._waiting_loggers.begin()
        notify(self, module, "on_run_begin")
        if writer is not None and writer not in self.callbacks:
            writer.on_run_begin(self, module)

    def _config_writer(self, module: SEALModule) -> SaveConfigBesideRun | None:
        """What writes the configuration of the run: the command's where one started it; none with `fast_dev_run`."""
        if self.fast_dev_run:
            return None
        for callback in self.callbacks:
            if isinstance(callback, SaveConfigBesideRun):
                return callback
        writer = config_of(self, module, self._given_settings, options_of=SEALTrainer, ckpt_path=self._given_ckpt_path)
        if writer.left_out:
            why = "; ".join(f"{name} ({reason})" for name, reason in writer.left_out.items())
            log.warning("%s: the saved configuration is without %s", self.default_root_dir, why)
        return writer

    # -- the commands ----------------------------------------------------------------------------------------------

    def fit(
        self,
        model: SEALModule,
        train_dataloaders: object = None,
        val_dataloaders: object = None,
        datamodule: SEALDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """As Lightning's; `last` with no checkpoint yet starts from the journal. A job that SLURM requeued resumes.

        Args:
            model: The module.
            train_dataloaders: The data module may stand here, as in Lightning; loaders may not.
            val_dataloaders: None: the data module has the validation contexts.
            datamodule: The contexts.
            ckpt_path: `last`, `best`, or the file of a checkpoint.
            weights_only: Always true: checkpoints hold tensors and plain values.
        """
        loaders = train_dataloaders if train_dataloaders is not None else val_dataloaders
        module, data = checked(self, "fit", SEALModule, model=model, loaders=loaders, datamodule=datamodule)
        requeued = ckpt_path is None and bool(os.environ.get("SLURM_RESTART_COUNT"))
        given = "last" if requeued else None if ckpt_path is None else str(ckpt_path)
        path = None if given == "last" and not self._checkpoint("last").exists() else self.find_checkpoint(given)
        if self.fast_dev_run and path:
            if self.is_global_zero:
                log.warning("fast_dev_run: begins with the untrained policy, --ckpt_path %s is not read", given)
            path = given = None
        self.shares = module.m_step.shares(self.world_size, accumulation=self.given_accumulation)
        self.accumulate_grad_batches = self.shares.accumulation
        with self._at_work("fit", module, given):
            super().fit(module, datamodule=data, ckpt_path=path, weights_only=True)
            if self.is_global_zero and not self._ended_early(module.rounds_done):
                save_finished(Path(self.default_root_dir))
                self._warn_if_untrained()

    def _warn_if_untrained(self) -> None:
        """Say that a fit came to nothing better than it began with; a command says it in its last words."""
        of_command = any(isinstance(callback, SaveConfigBesideRun) for callback in self.callbacks)
        for callback in [] if of_command else self.callbacks:
            if isinstance(callback, CheckpointSelection) and callback.selection.verdict in ("untrained", "nothing"):
                why = said(callback.selection)[0]
                log.warning("%s: %s; nothing was exported as the best policy", self.default_root_dir, why)

    def _ended_early(self, rounds: int) -> bool:
        """Whether `max_time` ended the fit, and not its number of rounds: the same command goes on then."""
        assert isinstance(self.fit_loop, SEALFitLoop)
        most = self.max_epochs
        timed = any(isinstance(callback, Timer) for callback in self.callbacks)
        return self.fit_loop.ended_early or (timed and most is not None and not 0 <= most <= rounds)

    @_signed_as(Trainer.validate)
    def validate(self, *args: Any, **options: Any) -> Any:
        """Base, passage and self-edit accuracy on the validation contexts; arguments are Lightning's.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        return self._evaluate("validate", *args, **options)

    @_signed_as(Trainer.test)
    def test(self, *args: Any, **options: Any) -> Any:
        """Base, passage and self-edit accuracy on the test contexts; arguments are Lightning's.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        return self._evaluate("test", *args, **options)

    @_signed_as(Trainer.predict)
    def predict(self, *args: Any, **options: Any) -> Any:
        """Self-edits for the predict contexts, or answers to their queries; arguments are Lightning's.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.

        Returns:
            As Lightning's, one entry a batch, which is a unit here: its self-edits as `Rollout`s, or its answers as
            `Prediction`s, of all ranks and in the order of the data. None with `return_predictions=False`.
        """
        returned = self._evaluate("predict", *args, **options)
        module = self.lightning_module
        assert isinstance(module, SEALModule)
        return returned if returned is None else module.phases.predictions()

    def _evaluate(self, command: str, *args: object, **options: object) -> object:
        """What validation, test and prediction have in common.

        As in Lightning, the module and the data module may be left out: they are those of the run before, with its
        best policy. The data module may stand where Lightning takes loaders.
        """
        run = getattr(super(), command)
        given = inspect.signature(run).bind(*args, **options).arguments
        model, loaders, ckpt_path = (given.pop(name, None) for name in ("model", "dataloaders", "ckpt_path"))
        module, data = checked(
            self, command, SEALModule, model=model, loaders=loaders, datamodule=given.pop("datamodule", None)
        )
        if model is None and ckpt_path is None and self._checkpoint("best").is_file():
            ckpt_path = "best"
        chosen = None if ckpt_path is None else str(ckpt_path)
        with self._at_work(command, module, chosen):
            path = self.find_checkpoint(chosen)
            return run(module, datamodule=data, ckpt_path=path, **{**given, "weights_only": True})

    def _checkpoint(self, name: str) -> Path:
        return Path(self.folder.path) / "checkpoints" / f"{name}.ckpt"

    def find_checkpoint(self, ckpt_path: str | None) -> str | None:
        """The file behind `last`, `best` or a path. Raises `ConfigError` where there is none."""
        if ckpt_path is None:
            return None
        path = self._checkpoint(ckpt_path) if ckpt_path in ("last", "best") else Path(ckpt_path)
        if not path.is_file():
            raise ConfigError(
                f"--ckpt_path {ckpt_path}: there is no file {path}; give last, best or a checkpoint of seal fit"
            )
        if fault := fault_of(path):
            raise ConfigError(
                f"--ckpt_path {ckpt_path}: {path} is damaged, or is not a checkpoint of seal fit: {fault}; give last, "
                "best or another one"
            )
        return str(path)


def _loggers(
    logger: Logger | Iterable[Logger] | bool | None, folder: str, *, barebones: bool
) -> Logger | Iterable[Logger] | bool | None:
    """The loggers that were given; by default TensorBoard and CSV files in the run folder."""
    if barebones or not (logger is None or logger is True):
        return logger or None if barebones else logger
    return [TensorBoardLogger(folder, name="tensorboard"), CSVLogger(folder, name="csv")]
