"""Lightning's Trainer with SEAL's fit loop in place of its own; every other option is Lightning's.

One epoch is one round, so `max_epochs` is the number of rounds. The run folder is `default_root_dir`: journal,
checkpoints, logs and tables all lie there, and `ckpt_path` `last` and `best` mean the ones in it.
"""

import io
import math
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from seal_lightning.beginning import Loggers
from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.executors import Executor, LocalExecutor
from seal_lightning.fit_stamp import save_finished
from seal_lightning.hooks import notify
from seal_lightning.launched import Launched
from seal_lightning.loop import MStepLoop, SEALFitLoop
from seal_lightning.m_step import Shares
from seal_lightning.ownership import owning
from seal_lightning.ranks import Ranks
from seal_lightning.saving import cannot_save, disk_error, tidy, whole
from seal_lightning.stopping import StopSignals, requeue
from seal_lightning.strategies import ZeROStrategy
from seal_lightning.streams import last_words
from seal_lightning.training_checkpoint import fault_of
from seal_lightning.watch import PATIENCE


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent. Lightning's own take the way over the folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch's own writing to a file forgets why it failed
        torch.save(checkpoint, content)
        with whole(path) as aside, aside.open("wb") as file:
            file.write(content.getbuffer())


class SEALTrainer(Trainer):
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
        log_every_n_steps: int = 1,
        executor: Executor | None = None,
        allow_other_versions: bool = False,
        give_up_after: float = PATIENCE,
        use_distributed_sampler: bool = False,
        inference_mode: bool = False,
        num_sanity_val_steps: int = 0,
        enable_model_summary: bool = False,
        **kwargs: Any,
    ) -> None:
        if logger is None or logger is True:
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
            **kwargs,
        )
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = WholeCheckpoints()
        other = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
        if isinstance(self.strategy, other) and not isinstance(self.strategy, ZeROStrategy):
            raise ConfigError(
                f"trainer.strategy must be auto, ddp or seal_lightning.strategies.ZeROStrategy, got "
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
        """The number of the signal that any rank received, or 0; a collective."""
        return self.largest(self.stop_signals.received)

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
            self._loggers_of_run.give_up()

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
    def _at_work(self) -> Iterator[None]:
        """A fit, validation, test or prediction owns its run folder, and the processes of the run end together."""
        with self.owning_folder(), self.launched.ending_together(self.strategy.launcher), self._named_disk():
            yield

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
        run = self.default_root_dir
        with ExitStack() as stack:
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
            self._default_root_dir = heard[0][1]

    def begin(self) -> None:
        """Every check has passed: loggers start and callbacks are told, once a run, before its first unit of work."""
        if self._has_begun:
            return
        self._has_begun = True
        if self.is_global_zero:
            tidy(self.default_root_dir)
        self._loggers_of_run.begin()
        notify(self, self.lightning_module, "on_run_begin")

    # Checkpoints hold tensors and plain values only, so loading them never runs code (weights_only).

    @property
    def checkpoints(self) -> Path:
        """The folder with `last.ckpt` and `best.ckpt`."""
        return Path(self.default_root_dir) / "checkpoints"

    def fit(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """As Lightning's; `last` with no checkpoint yet starts from the journal. A job that SLURM requeued resumes.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        requeued = ckpt_path is None and bool(os.environ.get("SLURM_RESTART_COUNT"))
        ckpt_path = "last" if requeued else ckpt_path
        if ckpt_path == "last" and not (self.checkpoints / "last.ckpt").exists():
            ckpt_path = None
        module = kwargs["model"] if "model" in kwargs else args[0]
        self.shares = module.m_step.shares(self.world_size, accumulation=self.given_accumulation)
        self.accumulate_grad_batches = self.shares.accumulation
        with self._at_work():
            super().fit(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})
            if self.is_global_zero and not self._ended_by_clock(module.rounds_done):
                save_finished(Path(self.default_root_dir))

    def _ended_by_clock(self, rounds: int) -> bool:
        """Whether `max_time` ended the fit, and not its number of rounds: the same command goes on then."""
        most = self.max_epochs
        timed = any(isinstance(callback, Timer) for callback in getattr(self, "callbacks", ()))
        return timed and most is not None and not 0 <= most <= rounds

    def validate(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Base, passage and self-edit accuracy on the validation contexts.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        with self._at_work():
            return super().validate(
                *args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True}
            )

    def test(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Base, passage and self-edit accuracy on the test contexts.

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        with self._at_work():
            return super().test(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def predict(self, *args: Any, ckpt_path: str | None = None, **kwargs: Any) -> Any:
        """Self-edits for the predict contexts, or answers to their queries (`model.predict`).

        Args:
            ckpt_path: `last`, `best`, or the file of a checkpoint.
        """
        with self._at_work():
            return super().predict(*args, ckpt_path=self.find_checkpoint(ckpt_path), **{**kwargs, "weights_only": True})

    def find_checkpoint(self, ckpt_path: str | None) -> str | None:
        """The file behind `last`, `best` or a path. Raises `ConfigError` where there is none."""
        if ckpt_path is None:
            return None
        path = self.checkpoints / f"{ckpt_path}.ckpt" if ckpt_path in ("last", "best") else Path(ckpt_path)
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
