"""SEAL's outer loop inside Lightning's: one epoch of the fit is one round.

    round: [validate before the first]  E-step -> filter -> M-step (Lightning's loop) -> merge -> validate -> save

The E-step is a loop of its own (`RolloutLoop`, one unit of work an advance). The M-step's loader is rebuilt every round
from the kept edits; a round that keeps nothing trains nothing and goes on. Crash safety rests on two things: the
journal holds every finished unit, and a checkpoint says where in the round it was taken: at its end (or before its
M-step, which is the same), within the M-step, or before the validation that follows it.
No other file touches Lightning's private loop classes.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NoReturn

import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call
from torch import nn

from seal_lightning.data.base import units as units_of
from seal_lightning.errors import CheckpointError, JournalError, NoMemoryError, SealError, Stopped
from seal_lightning.fit.base import FitModule, FitTrainer
from seal_lightning.fit.metrics import e_step_metrics
from seal_lightning.fit.strategies import restart_optimizer, restart_schedule
from seal_lightning.fit.units import UnitRunner
from seal_lightning.hooks import check_one_filter, notify
from seal_lightning.m_step.selection import group_rollouts, without_merit
from seal_lightning.models.kernels import planless_attention
from seal_lightning.models.memory import MAYBE, is_out_of_memory
from seal_lightning.models.partitioned import is_partitioned
from seal_lightning.models.products import quick_products
from seal_lightning.processes.stopping import EARLY
from seal_lightning.results.diversity import tell_diversity
from seal_lightning.results.left_out import tell_left_out
from seal_lightning.types import EditOutcome, Rollout

log = logging.getLogger(__name__)

Stage = Literal["round_end", "m_step", "validation"]


class RolloutLoop(_Loop):
    """The E-step of one round over all training contexts; each advance is one unit of work by this rank."""

    trainer: FitTrainer
    runner: UnitRunner | None = None

    def run(self, *, round: int, policy_digest: str, must_be_finished: bool) -> list[Rollout]:
        """Roll out every unit of `round`; with `must_be_finished`, the journal has to hold them all already."""
        self.runner = self._runner(policy_digest=policy_digest)
        if must_be_finished and self.runner.pending:
            raise JournalError(
                f"journal {self.runner.journal.path}: round {round} is incomplete, but the checkpoint was taken in its "
                "M-step; bring the journal back or resume from an earlier checkpoint"
            )
        while self.advance():
            pass
        return self.runner.finish()

    def check(self, *, policy_digest: str) -> None:
        """Raise what `run` would raise at the journal, before anything of the run is written."""
        self._runner(policy_digest=policy_digest, check_only=True)

    def _runner(self, *, policy_digest: str, check_only: bool = False) -> UnitRunner:
        module, data = self.trainer.lightning_module, self.trainer.datamodule
        return UnitRunner(
            self.trainer,
            module,
            phase="train",
            e_step=module.e_step,
            units=units_of(data.train_contexts, data.contexts_per_unit),
            policy_digest=policy_digest,
            check_only=check_only,
        )

    def advance(self) -> bool:
        assert self.runner is not None
        return self.runner.step() is not None


class MStepLoop(_TrainingEpochLoop):
    """Lightning's training loop without validation inside: that comes after the merge, in `SEALFitLoop`."""

    def advance(self, data_fetcher: _DataFetcher) -> None:
        try:
            # backward too: activation checkpointing runs the forward pass again there
            with planless_attention(self.trainer.strategy.root_device):
                super().advance(data_fetcher)
        except MAYBE as error:
            if isinstance(error, SealError) or not is_out_of_memory(error):
                raise
            raise NoMemoryError(
                f"round {self.trainer.current_epoch + 1}, M-step: there is no memory for a batch "
                f"({' '.join(str(error).split())[:160]}): lower model.m_step.batch_size (with effective_batch the "
                f"result stays the same){self.trainer.lightning_module.less_memory}"
            ) from error

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        return False

    def reset(self) -> None:
        with warnings.catch_warnings():  # the loader does start at the right batch, see SEALFitLoop.on_advance_start
            warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
            super().reset()


class SEALFitLoop(_FitLoop):
    """The rounds, of which Lightning's `min_epochs` and `max_epochs` are the fewest and the most."""

    trainer: FitTrainer

    def __init__(self, trainer: FitTrainer, min_epochs: int | None, max_epochs: int | None) -> None:
        super().__init__(trainer, min_epochs=min_epochs, max_epochs=max_epochs)
        self.rollout_loop = RolloutLoop(trainer)
        self.kept: list[EditOutcome] = []
        self.policy_digest = ""  # of the policy that this round's E-step sampled from
        self._stage: Stage = "round_end"  # where a checkpoint taken now would go on
        self._resumed = False  # from a checkpoint within a round, until its E-step is read back
        self.ended_early = False  # within a round
        self._to_train = False  # whether this round's M-step is still to be done

    @property
    def rounds_done(self) -> int:
        """Rounds that are over."""
        progress: Any = self.epoch_progress.current
        return progress.processed

    # -- resume ------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self) -> dict:
        own = {"stage": self._stage, "policy_digest": self.policy_digest, "ranks": self.trainer.world_size}
        return {**super().on_save_checkpoint(), **own}

    def on_load_checkpoint(self, state_dict: dict) -> None:
        super().on_load_checkpoint(state_dict)
        self._stage, self.policy_digest = state_dict["stage"], state_dict["policy_digest"]
        self._resumed = self._stage != "round_end"
        ranks = self.trainer.world_size
        if self._stage == "m_step" and state_dict["ranks"] != ranks:
            raise CheckpointError(
                f"the checkpoint was taken within an M-step on {state_dict['ranks']} ranks, now there are {ranks}, and "
                "its batches are shared out differently: resume on as many, or move checkpoints/last.ckpt away (the "
                "round's E-step is in the journal). Nothing was overwritten"
            )

    def reset(self) -> None:
        if self._stage != "m_step":
            # A round's end is a clean start of the next round: Lightning's own restart logic has nothing to do.
            trackers: list[Any] = [self.epoch_progress.current, self.epoch_progress.total]
            for tracker in trackers:
                tracker.completed = tracker.processed
            _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]
            for loop in (self, self.epoch_loop, self.epoch_loop.val_loop):
                loop._loaded_from_state_dict = False
        self.epoch_loop.val_loop.restarting = False
        super().reset()

    # -- a round -----------------------------------------------------------------------------------------------------

    def setup_data(self) -> None:
        """The M-step's loader exists only once edits are kept; Lightning asks for it before that.

        Limits are those of the E-step, and what was kept there is trained on as a whole, but in a `fast_dev_run`.
        """
        trainer = self.trainer
        self._data_source.instance = trainer.lightning_module  # it makes the loader, not the data module
        if not self._to_train:
            return
        given = trainer.limit_train_batches, trainer.overfit_batches
        trainer.limit_train_batches, trainer.overfit_batches = int(trainer.fast_dev_run) or 1.0, 0.0
        try:
            super().setup_data()
        finally:
            trainer.limit_train_batches, trainer.overfit_batches = given

    def on_advance_start(self) -> None:
        module = self.trainer.lightning_module
        round, resumed = self.trainer.current_epoch, self._resumed
        module.rounds_done = round
        try:
            if not resumed:
                self.policy_digest = module.policy.digest()
            if round == 0 and not resumed and self.trainer.validate_first:
                self.rollout_loop.check(policy_digest=self.policy_digest)
                with _without_metrics_of_a_round(self.trainer):
                    self._validate()
            self._e_step(round, must_be_finished=resumed)
        except Stopped as stop:
            notify(self.trainer, module, "on_stop")  # a checkpoint of the round's start
            self._end_early(stop)
        self._to_train = bool(module.taught) and self._stage != "validation"
        # where the checkpoint was taken, `completed` is one behind
        position: Any = self.epoch_loop.batch_progress.current
        module.batch_start = position.processed if resumed and self._to_train else 0
        module.optimizer_steps = max(1, self.trainer.shares.steps(module.batches))
        if not module.batch_start:
            restart_schedule(self.trainer)
        self._combined_loader = None
        self.setup_data()
        self._resumed = False
        if not resumed:
            self._stage = "m_step"
            self.epoch_progress.increment_ready()
            call._call_callback_hooks(self.trainer, "on_train_epoch_start")
            call._call_lightning_module_hook(self.trainer, "on_train_epoch_start")
            self.epoch_progress.increment_started()

    def _e_step(self, round: int, *, must_be_finished: bool) -> None:
        trainer, module = self.trainer, self.trainer.lightning_module
        started = time.perf_counter()
        rollouts = self.rollout_loop.run(
            round=round, policy_digest=self.policy_digest, must_be_finished=must_be_finished
        )
        groups = group_rollouts(rollouts)
        chosen = module.choose(groups)
        if trainer.is_global_zero and self.rollout_loop.runner:
            self.rollout_loop.runner.journal.keep(chosen, round=round)
        self.kept = trainer.processes.ranks.gather(chosen)[0]  # rank 0's choice, whatever a filter draws
        scored = [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]
        if trainer.fast_dev_run and scored and not self.kept:
            log.warning("fast_dev_run: no self-edit was kept, the M-step is tried on one all the same")
            self.kept = scored[:1]
        module.kept = self.kept
        module.taught = module.teaches(groups)
        tell_left_out(f"round {round + 1}", rollouts, only=trainer.is_global_zero)
        if trainer.is_global_zero:
            _tell_edits(trainer, rollouts, round=round)
        if trainer.is_global_zero and (poor := without_merit(self.kept)):
            log.info(
                "round %d: %d of the %d kept edits without merit: no reward above 0, or no better than the baseline",
                *(round + 1, len(poor), len(self.kept)),
            )
        module.e_step_metrics = e_step_metrics(rollouts, groups, self.kept, time.perf_counter() - started)
        _log(trainer, module.e_step_metrics)
        if not trainer.barebones:
            # for who monitors them at the end of the validation, before Lightning's epoch is over
            now = {name: torch.tensor(value) for name, value in module.e_step_metrics.items()}
            trainer._logger_connector._callback_metrics.update(now)
        with logging_in_round(module):
            notify(trainer, module, "on_e_step_end", rollouts=rollouts, groups=groups, kept=self.kept)

    def advance(self) -> None:
        if self._to_train:
            started = time.perf_counter()
            try:
                with _quick_products(self.trainer.lightning_module.policy.module):
                    super().advance()
            except Stopped as stop:
                self._end_early(stop)
            metrics = {"m_step/seconds": time.perf_counter() - started}
            if truncated := self.trainer.lightning_module.m_step_truncated:
                metrics["m_step/truncated"] = float(truncated)
            self.trainer.lightning_module.m_step_metrics = metrics | self.trainer.lightning_module.end_m_step()
            _log(self.trainer, self.trainer.lightning_module.m_step_metrics)
            return
        if not self.kept:
            log.info("round %d: no self-edit was kept, the policy stays as it is", self.trainer.current_epoch)
        elif not self.trainer.lightning_module.taught:
            log.info("round %d: nothing to learn, the policy stays as it is", self.trainer.current_epoch)
        self.epoch_loop.batch_progress.reset_on_run()
        self.max_batches = float("inf")  # Lightning takes 0 batches for the end of the fit

    def on_advance_end(self) -> None:
        trainer, module = self.trainer, self.trainer.lightning_module
        module.rounds_done = self.trainer.current_epoch + 1
        self._stage = "validation"
        if self._to_train:
            if module.policy.end_round(self.trainer.current_epoch):
                restart_optimizer(trainer)
            module.check_policy()
            notify(trainer, module, "on_m_step_end")
        if self.epoch_loop._should_check_val_epoch():
            self._validate()
        self._stage, self._to_train = "round_end", False
        super().on_advance_end()
        self.max_batches = float("inf")

    def _end_early(self, stop: Stopped) -> NoReturn:
        """End the fit within a round, of which everything is kept: as Lightning ends, or as a signal does."""
        if stop.number != EARLY:
            raise stop
        self.ended_early = True
        raise StopIteration from stop

    def _validate(self) -> None:
        if not self.trainer.enable_validation:
            return
        trainer = self.trainer
        trainer.validating = True
        first_iteration = trainer._logger_connector._first_loop_iter
        call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
        self.epoch_loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first_iteration
        torch.set_grad_enabled(True)


def _quick_products(module: nn.Module) -> AbstractContextManager[None]:
    """The fastest products with frozen weights, unless those are spread over the ranks."""
    return nullcontext() if any(map(is_partitioned, module.parameters())) else quick_products(module)


def _tell_edits(trainer: FitTrainer, rollouts: Sequence[Rollout], *, round: int) -> None:
    """Log how different the edits of a context are, and what the filter has to say about its choice."""
    chooser = check_one_filter(trainer.callbacks)
    for said in (tell_diversity(rollouts), chooser.remark() if chooser else ""):
        if said:
            log.info("round %d: %s", round + 1, said)


def _log(trainer: FitTrainer, metrics: Mapping[str, float]) -> None:
    """Hand figures of a round to the loggers at once, past Lightning's own collecting."""
    figures: dict[str, Any] = dict(metrics)
    trainer._logger_connector.log_metrics(figures)


@contextmanager
def _without_metrics_of_a_round(trainer: FitTrainer) -> Iterator[None]:
    """Before the first round there is no reward to stop at: who monitors one looks at what there is."""
    strict = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping) and callback.strict]
    for callback in strict:
        callback.strict = False
    try:
        yield
    finally:
        for callback in strict:
            callback.strict = True


@contextmanager
def logging_in_round(module: FitModule) -> Iterator[None]:
    """Within it `module.log` works as in `on_train_epoch_start`: loggers and whoever monitors see it with the round."""
    before, module._current_fx_name = module._current_fx_name, "on_train_epoch_start"
    try:
        yield
    finally:
        module._current_fx_name = before
