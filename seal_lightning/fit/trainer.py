"""Lightning's Trainer with SEAL's fit loop in place of its own; every other option is Lightning's.

One epoch is one round, so `max_epochs` is the number of rounds. The run folder is `default_root_dir`: journal,
checkpoints, logs and tables all lie there, and `ckpt_path` `last` and `best` mean the ones in it.
"""

import io
import logging
import math
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from seal_lightning.callbacks import CheckpointSelection
from seal_lightning.data import SEALDataModule
from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.files.ownership import owning
from seal_lightning.files.saving import cannot_save, disk_error, tidy, whole
from seal_lightning.fit.checkpoint_file import fault_of
from seal_lightning.fit.checks import check_flags
from seal_lightning.fit.default_callbacks import with_defaults
from seal_lightning.fit.ending import save_table
from seal_lightning.fit.executors import Executor, LocalExecutor
from seal_lightning.fit.given_objects import checked
from seal_lightning.fit.loggers import Loggers
from seal_lightning.fit.loop import MStepLoop, SEALFitLoop
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.python_config import config_of, trainer_settings
from seal_lightning.fit.run_config import SaveConfigBesideRun, check_folder
from seal_lightning.fit.stamp import save_finished
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.hooks import notify
from seal_lightning.m_step.batches import Shares
from seal_lightning.processes.launched import Launched
from seal_lightning.processes.ranks import Ranks
from seal_lightning.processes.stopping import EARLY, StopSignals, requeue
from seal_lightning.processes.streams import last_words
from seal_lightning.processes.watch import PATIENCE
from seal_lightning.results.verdict import said
from seal_lightning.stamps.arguments import Remembers

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent. Lightning's own take the way over the folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch's own writing to a file forgets why it failed
        torch.save(checkpoint, content)
        with whole(path) as aside, aside.open("wb") as file:
            file.write(content.getbuffer())


class SEALTrainer(Trainer, Remembers):
    """Trainer of SEAL.

    Args:
        max_epochs: Rounds, each one E-step and its M-step (paper: 2).
        default_root_dir: The run folder.
        validate_first: Validate the untrained policy before the first round, for the comparison.
        logger: Lightning loggers; TensorBoard and CSV in the run folder by default, `false` for none.
        log_every_n_steps: Of the M-step, which is short.
        executor: Where units of work run: in the training processes (default) or on a Ray cluster.
        allow_other_versions: Resume a run that other versions of seal-lightning or of its libraries began; the run
            writes down from which round on which versions hold.
        callbacks: Beside ours (`default_callbacks`), or instead: a filter, a `CheckpointSelection`, a `RolloutTable` or
            a progress bar takes the place of the one that a run has anyway.
        enable_checkpointing: Whether checkpoints and the best policy are saved; null is true.
        enable_checkpoint_selection: Whether that is done as `CheckpointSelection` does it; false leaves it to
            Lightning's `ModelCheckpoint`, which saves no policy.
        enable_progress_bar: Whether progress is shown; null is true.
        enable_rollout_table: Whether the tables of self-edits are written.
        enable_trackers: Whether loggers get settings, tables and artifacts besides numbers.
        barebones: Lightning's, to measure its overhead.
        give_up_after: Seconds without a sign of life from another rank (its process is stopped, its node dead) after
            which the others end with its name; at most 60 once the run was asked to stop.
    """

    fast_dev_run: bool | int
    callbacks: list[Callback]

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
        check_flags({**kwargs, "log_every_n_steps": log_every_n_steps, "num_sanity_val_steps": num_sanity_val_steps})
        if kwargs.get("profiler") == "pytorch":  # by default it records from the second batch on: no E-step
            kwargs["profiler"] = PyTorchProfiler(schedule=None, row_limit=-1)
        if barebones:  # which Lightning refuses to combine with any of them
            logger, log_every_n_steps = logger or None, None
        elif logger is None or logger is True:
            logger = [TensorBoardLogger(default_root_dir, name="tensorboard"), CSVLogger(default_root_dir, name="csv")]
        _check_slurm(os.environ)
        if not 1 <= give_up_after < math.inf:
            raise ConfigError(f"trainer.give_up_after must be 1 or more seconds, got {give_up_after}: try {PATIENCE:g}")
        self.give_up_after = give_up_after
        super().__init__(
            *args,
            max_epochs=max_epochs,
            default_root_dir=default_root_dir,
            logger=logger,
            log_every_n_steps=log_every_n_steps,
            use_distributed_sampler=use_distributed_sampler,
            inference_mode=inference_mode,
            num_sanity_val_steps=num_sanity_val_steps,
            enable_model_summary=enable_model_summary,
            callbacks=with_defaults(
                callbacks,
                enable_checkpointing=enable_checkpoint_selection and enable_checkpointing,
                enable_progress_bar=enable_progress_bar,
                enable_rollout_table=enable_rollout_table,
                enable_trackers=enable_trackers,
                barebones=barebones,
            ),
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            barebones=barebones,
            **kwargs,
        )
        if use_distributed_sampler and self.world_size > 1:
            raise ConfigError(
                "trainer.use_distributed_sampler must be false on several devices, got true: SEAL shares out units and "
                "batches itself"
            )
        self.run_folder = self.default_root_dir
        if self.fast_dev_run:
            validate_first = False
            self.callbacks = [one for one in self.callbacks if not isinstance(one, CheckpointSelection)]
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = WholeCheckpoints()
        other = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
        if isinstance(self.strategy, other) and not isinstance(self.strategy, ZeROStrategy):
            raise ConfigError(
                f"trainer.strategy must be auto, ddp or seal_lightning.fit.strategies.ZeROStrategy, got "
                f"{type(self.strategy).__name__}: for DeepSpeed add --config configs/deepspeed/zero2.yaml"
            )
        plain = self.fit_loop
        self.fit_loop = SEALFitLoop(self, plain.min_epochs, plain.max_epochs, validate_first=validate_first)
        self.fit_loop.epoch_loop = MStepLoop(self, plain.min_steps, plain.max_steps)
        # Lightning's handler tells the other ranks in a collective, in which none of them need ever meet this one
        self._signal_connector.register_signal_handlers = lambda: None
        self.executor = executor or LocalExecutor()
        self.stop_signals = StopSignals()
        self.shares = Shares(1, 1, 1)  # of the M-step, known once there is a module to fit
        self.given_accumulation = self.accumulate_grad_batches
        self.use_distributed_sampler = use_distributed_sampler
        self.allow_other_versions = allow_other_versions
        self.launched = Launched()
        self._loggers_of_run = Loggers([])
        self._has_begun = False
        self._refusal: ConfigError | None = None  # of this rank, until all ranks know of it
        self.given_settings = trainer_settings(self)
        self.table = ""  # of the last fit, validation or test, as Markdown
        self._run_settings: Mapping[str, Any] = {}
        self._given_ckpt_path: str | None = None
        self.follows_first = False  # whether the first rank's folder is taken, which it has chosen

    @cached_property
    def ranks(self) -> Ranks:
        """The processes of the run, once they have found each other."""
        return Ranks(patience=self.give_up_after, on_end=self._end_without_main_thread)

    def _end_without_main_thread(self, reason: str) -> None:
        """The main thread waits in a collective for a rank that is lost: nothing is left but to say so, and to end."""
        last_words(f"seal: {reason}")
        self.launched.kill()

    def stop_requested(self) -> int:
        """The largest `stop_wanted` of all ranks; a collective."""
        return self.largest(self.stop_wanted())

    def stop_wanted(self) -> int:
        """Why this process is to stop its E-step or M-step: the number of a signal, `EARLY`, or 0.

        Early is what `max_time` and callbacks ask for that set `should_stop`, where `min_epochs` and `min_steps` are
        done. Lightning looks for it at batches only; an E-step has units, and what they have found is kept.
        """
        if self.stop_signals.received:
            return self.stop_signals.received
        return EARLY if self.fit_loop._can_stop_early and (self.should_stop or self.time_is_up) else 0

    @property
    def time_is_up(self) -> bool:
        """Whether `max_time` is over."""
        timers = [callback for callback in self.callbacks if isinstance(callback, Timer)]  # of max_time, or a user's
        return any((timer.time_remaining() or 0.0) <= 0.0 for timer in timers if timer.time_remaining() is not None)

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers; a collective."""
        mine = torch.tensor(float(number), device=self.strategy.root_device)
        return int(self.strategy.reduce(mine, reduce_op="max"))

    # -- processes and signals ---------------------------------------------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """A run from its checks to its end, in each of its processes."""
        self.launched.watch(self.strategy.launcher)  # before the ranks meet, since one may be gone by then
        self._has_begun = False
        self._loggers_of_run = Loggers(self.loggers)
        try:
            return super()._run(*args, **kwargs)
        finally:
            self._loggers_of_run.end()

    def _run_stage(self) -> Any:
        environment = getattr(self.strategy, "cluster_environment", None)
        if not isinstance(environment, SLURMEnvironment):
            environment = SLURMEnvironment() if SLURMEnvironment.detect() else None
        requeues = environment is not None and environment.auto_requeue
        preemption = (environment.requeue_signal or signal.SIGUSR1) if environment and requeues else None
        try:
            with self.stop_signals.noted(preemption=preemption), self.ranks.watched(lambda: self.stop_signals.received):
                self.launched.working = True
                return super()._run_stage()
        except BaseException as error:
            if isinstance(error, Stopped) and error.number == preemption and self.is_global_zero:
                requeue()
            raise
        finally:
            self.launched.working = False
            self.executor.close()

    @contextmanager
    def _at_work(self, command: str, module: SEALModule, ckpt_path: str | None) -> Iterator[None]:
        """A command owns its run folder, in which its table lies in the end; the processes of the run end together."""
        self._run_settings, self._given_ckpt_path, self.table = {}, ckpt_path, ""
        with self.owning_folder(), self.launched.ending_together(self.strategy.launcher), self._named_disk():
            check_folder(Path(self.default_root_dir), command)
            yield
            self.table = save_table(self, module, command)

    @contextmanager
    def _named_disk(self) -> Iterator[None]:
        """What loggers say about a disk names no file; closing them on a full one hides what stopped the run before.

        Raises:
            SavingError: The run folder cannot be written to.
        """
        try:
            yield
        except Exception as error:
            cause = None if isinstance(error, SealError) else disk_error(error)
            if cause is None:
                raise
            if (first := _first_reason(error)) is not None:
                raise first from error
            if cause.filename is not None:
                raise
            raise cannot_save(self.default_root_dir, cause) from error

    # -- the run folder ----------------------------------------------------------------------------------------------

    @contextmanager
    def owning_folder(self) -> Iterator[None]:
        """Within the block, the run folder is this run's alone; the first rank sees to it.

        Raises:
            FolderInUse: Another run owns it. Where ranks were started by others (torchrun, srun), all of them raise it
                once they have found each other (`share_refusal`), since no rank would end for another's sake.
        """
        with ExitStack() as stack:
            stack.enter_context(self._scratch_folder())
            run = self.default_root_dir
            if self.is_global_zero and self._refusal is None:
                try:
                    stack.enter_context(owning(Path(run), option=f"trainer.default_root_dir={run}"))
                except ConfigError as error:
                    if self.world_size == 1 or not self._ranks_start_themselves:
                        raise
                    self._refusal = error
            try:
                yield
            finally:
                self._refusal = None

    @contextmanager
    def _scratch_folder(self) -> Iterator[None]:
        """A `fast_dev_run` works in a folder that is gone afterwards, each rank in its own."""
        if not self.fast_dev_run or self.default_root_dir != self.run_folder:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="seal-fast-dev-run-", ignore_cleanup_errors=True) as folder:
            self._default_root_dir = folder
            try:
                yield
            finally:
                self._default_root_dir = self.run_folder

    @property
    def _ranks_start_themselves(self) -> bool:
        environment = getattr(self.strategy, "cluster_environment", None)
        return environment is not None and environment.creates_processes_externally

    def share_refusal(self) -> None:
        """Raise on every rank what the first one has met at the run folder, or take that folder; a collective."""
        if self.world_size == 1:
            return
        heard = self.ranks.gather((self._refusal, str(self.default_root_dir)))
        for refusal, _ in heard:
            if refusal is not None:
                raise refusal
        if self.follows_first:
            self._default_root_dir = self.run_folder = heard[0][1]

    @property
    def run_settings(self) -> Mapping[str, Any]:
        """The settings of the run as `config.yaml` has them: nested plain values, without secrets.

        Known once the run has begun (`on_run_begin`), to the first process; empty before, and with `fast_dev_run`.
        """
        return self._run_settings

    def begin(self) -> None:
        """Every check has passed: loggers start and callbacks are told, once a run, before its first unit of work."""
        if self._has_begun:
            return
        self._has_begun = True
        module: Any = self.lightning_module
        writer: SaveConfigBesideRun | None = None
        if self.is_global_zero:
            tidy(self.default_root_dir)
            writer = self._config_writer(module)
            self._run_settings = writer.settings() if writer else {}
        self._loggers_of_run.begin()
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
        command, data = str(getattr(self.state.fn, "value", "")), self.datamodule  # type: ignore[attr-defined]
        writer = config_of(self, module, data, command, ckpt_path=self._given_ckpt_path, options_of=SEALTrainer)
        if writer.left_out:
            why = "; ".join(f"{name} ({reason})" for name, reason in writer.left_out.items())
            log.warning("%s: the saved configuration is without %s", self.default_root_dir, why)
        return writer

    # Checkpoints hold tensors and plain values only, so loading them never runs code (weights_only).

    @property
    def checkpoints(self) -> Path:
        """The folder with `last.ckpt` and `best.ckpt`."""
        return Path(self.default_root_dir) / "checkpoints"

    def fit(
        self,
        model: SEALModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
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
            weights_only: Is always true: checkpoints hold tensors and plain values.
        """
        loaders = train_dataloaders if train_dataloaders is not None else val_dataloaders
        module, data = checked(self, "fit", model=model, loaders=loaders, datamodule=datamodule)
        requeued = ckpt_path is None and bool(os.environ.get("SLURM_RESTART_COUNT"))
        chosen = "last" if requeued else None if ckpt_path is None else str(ckpt_path)
        given = chosen
        if chosen == "last" and not (Path(self.run_folder) / "checkpoints" / "last.ckpt").exists():
            chosen = None
        if self.fast_dev_run and self.find_checkpoint(chosen):
            if self.is_global_zero:
                log.warning("fast_dev_run: begins with the untrained policy, --ckpt_path %s is not read", chosen)
            chosen = given = None
        self.shares = module.m_step.shares(self.world_size, accumulation=self.given_accumulation)
        self.accumulate_grad_batches = self.shares.accumulation
        with self._at_work("fit", module, given):
            super().fit(module, datamodule=data, ckpt_path=self.find_checkpoint(chosen), weights_only=True)
            if self.is_global_zero and not self._ended_early(module.rounds_done):
                save_finished(Path(self.default_root_dir))
                self._warn_if_untrained()

    def _warn_if_untrained(self) -> None:
        """Say that a fit came to nothing better than it began with; a command says it in its last words."""
        if any(isinstance(callback, SaveConfigBesideRun) for callback in self.callbacks):
            return
        for callback in self.callbacks:
            if isinstance(callback, CheckpointSelection) and callback.selection.verdict in ("untrained", "nothing"):
                why = said(callback.selection)[0]
                log.warning("%s: %s; nothing was exported as the best policy", self.default_root_dir, why)

    def _ended_early(self, rounds: int) -> bool:
        """Whether `max_time` ended the fit, and not its number of rounds: the same command goes on then."""
        most = self.max_epochs
        timed = any(isinstance(callback, Timer) for callback in self.callbacks)
        return self.fit_loop.ended_early or (timed and most is not None and not 0 <= most <= rounds)

    def validate(
        self,
        model: SEALModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: SEALDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Base, passage and self-edit accuracy on the validation contexts.

        Args:
            model: The module; of the run before where it is left out.
            dataloaders: The data module may stand here, as in Lightning; loaders may not.
            ckpt_path: `last`, `best`, or the file of a checkpoint.
            verbose: Print Lightning's table of metrics.
            datamodule: The contexts; of the run before where they are left out.
            weights_only: Is always true: checkpoints hold tensors and plain values.
        """
        return self._evaluate("validate", model, dataloaders, ckpt_path, datamodule, verbose=verbose)

    def test(
        self,
        model: SEALModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: SEALDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Base, passage and self-edit accuracy on the test contexts.

        Args:
            model: The module; of the run before where it is left out.
            dataloaders: The data module may stand here, as in Lightning; loaders may not.
            ckpt_path: `last`, `best`, or the file of a checkpoint.
            verbose: Print Lightning's table of metrics.
            datamodule: The contexts; of the run before where they are left out.
            weights_only: Is always true: checkpoints hold tensors and plain values.
        """
        return self._evaluate("test", model, dataloaders, ckpt_path, datamodule, verbose=verbose)

    def predict(
        self,
        model: SEALModule | None = None,
        dataloaders: Any = None,
        datamodule: SEALDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Self-edits for the predict contexts, or answers to their queries (`model.predict`).

        Args:
            model: The module; of the run before where it is left out.
            dataloaders: The data module may stand here, as in Lightning; loaders may not.
            datamodule: The contexts; of the run before where they are left out.
            return_predictions: Lightning's.
            ckpt_path: `last`, `best`, or the file of a checkpoint.
            weights_only: Is always true: checkpoints hold tensors and plain values.

        Returns:
            As Lightning's, one entry a batch, which is a unit here: its self-edits as `Rollout`s, or its answers as
            `Prediction`s, of all ranks and in the order of the data. None with `return_predictions=False`.
        """
        options = {"return_predictions": return_predictions}
        return self._evaluate("predict", model, dataloaders, ckpt_path, datamodule, **options)

    def _evaluate(
        self, command: str, model: Any, loaders: Any, ckpt_path: str | Path | None, datamodule: Any, **options: Any
    ) -> Any:
        """What validation, test and prediction have in common.

        As in Lightning, a module that is left out is that of the run before, with its best policy.
        """
        module, data = checked(self, command, model=model, loaders=loaders, datamodule=datamodule)
        if model is None and ckpt_path is None and (self.checkpoints / "best.ckpt").is_file():
            ckpt_path = "best"
        given = None if ckpt_path is None else str(ckpt_path)
        with self._at_work(command, module, given):
            run = getattr(super(), command)
            found = self.find_checkpoint(given)
            returned = run(module, datamodule=data, ckpt_path=found, weights_only=True, **options)
            return module.predictions() if command == "predict" and returned is not None else returned

    def find_checkpoint(self, ckpt_path: str | None) -> str | None:
        """The file behind `last`, `best` or a path. Raises `ConfigError` where there is none."""
        if ckpt_path is None:
            return None
        named = Path(self.run_folder) / "checkpoints" / f"{ckpt_path}.ckpt"
        path = named if ckpt_path in ("last", "best") else Path(ckpt_path)
        if not path.is_file():
            raise ConfigError(
                f"--ckpt_path {ckpt_path}: there is no file {path}; give last, best or a checkpoint of seal fit"
            )
        if fault := fault_of(path):
            raise ConfigError(
                f"--ckpt_path {ckpt_path}: {path} is damaged, or no checkpoint of seal fit: {fault}; give last, best "
                "or another one"
            )
        return str(path)


def _first_reason(error: BaseException) -> SealError | Stopped | None:
    """The error of ours that another one came up after; None where there is none."""
    context = error.__context__
    if context is None or isinstance(context, SealError | Stopped):
        return context
    return _first_reason(context)


def _check_slurm(environment: Mapping[str, str]) -> None:
    """Whether Lightning can tell the tasks of a SLURM job apart, which it else refuses with an error of its own.

    Raises:
        ConfigError: There are several, and nothing says how many a node has.
    """
    tasks = environment.get("SLURM_NTASKS", "1")
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if tasks in ("", "0", "1") or interactive or "SLURM_NTASKS_PER_NODE" in environment:
        return
    raise ConfigError(
        f"SLURM_NTASKS={tasks}: expected --ntasks-per-node in the job, by which the tasks of a node are told apart, "
        "got --ntasks alone: write #SBATCH --ntasks-per-node and start with srun; for one process in this shell, "
        "unset SLURM_NTASKS"
    )
