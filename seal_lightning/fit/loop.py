"""SEAL's outer loop inside Lightning's: one epoch of the fit is one round.

    round: [validate before the first]  E-step -> filter -> M-step (Lightning's loop) -> merge -> validate -> save

The E-step is a loop of its own (`RolloutLoop`, one unit of work an advance). The M-step's loader is rebuilt every round
from the kept edits; a round that keeps nothing trains nothing and goes on. Crash safety rests on two things: the
journal holds every finished unit, and a checkpoint says where in the round it was taken: at its end (or before its
M-step, which is the same), within the M-step, or before the validation that follows it.
This is the only file that touches Lightning's private loop classes.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any, Literal, NoReturn

import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call

from seal_lightning.data.units import units as units_of
from seal_lightning.errors import CheckpointError, JournalError, NoMemoryError, SealError, Stopped
from seal_lightning.fit.strategies import restart_optimizer, restart_schedule
from seal_lightning.fit.units import UnitRunner
from seal_lightning.hooks import EditFilter, notify, the_filter
from seal_lightning.m_step.selection import group_rollouts, without_merit
from seal_lightning.models.memory import MAYBE, is_out_of_memory
from seal_lightning.processes.stopping import EARLY
from seal_lightning.results.diversity import diversity_of
from seal_lightning.results.edits import NEARLY, diverged_edits, rewards_of, share_spent, terms_of, total_thoughts
from seal_lightning.results.left_out import QUERIES, tell_left_out, total_left_out
from seal_lightning.results.usage import total_usage
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

log = logging.getLogger(__name__)

Stage = Literal["round_end", "m_step", "validation"]


class RolloutLoop(_Loop):
    """The E-step of one round over all training contexts; each advance is one unit of work by this rank."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self.seal_trainer: Any = trainer
        self.runner: UnitRunner | None = None

    def run(self, *, round: int, policy_digest: str, must_be_finished: bool) -> list[Rollout]:
        """Roll out every unit of `round`; with `must_be_finished`, the journal has to hold them all already."""
        self.runner = UnitRunner(**self._phase(round=round, policy_digest=policy_digest))
        if must_be_finished and self.runner.pending:
            raise JournalError(
                f"journal {self.runner.journal.path}: round {round} is incomplete, but the checkpoint was taken in its "
                "M-step; bring the journal back or resume from an earlier checkpoint"
            )
        while self.advance():
            pass
        return self.runner.finish()

    def keep(self, kept: Sequence[EditOutcome], *, round: int) -> None:
        """Write down what the filter has kept of the round."""
        assert self.runner is not None
        self.runner.journal.keep(kept, round=round)

    def check(self, *, round: int, policy_digest: str) -> None:
        """Raise what `run` would raise at the journal, before anything of the run is written."""
        UnitRunner(**self._phase(round=round, policy_digest=policy_digest), check_only=True)

    def _phase(self, *, round: int, policy_digest: str) -> dict[str, Any]:
        """The arguments of a `UnitRunner`."""
        module, data = self.seal_trainer.lightning_module, self.seal_trainer.datamodule
        return {
            "trainer": self.seal_trainer,
            "module": module,
            "phase": "train",
            "e_step": module.e_step,
            "units": units_of(data.train_contexts, data.contexts_per_unit),
            "round": round,
            "policy_digest": policy_digest,
        }

    def advance(self) -> bool:
        assert self.runner is not None
        return self.runner.step() is not None


class MStepLoop(_TrainingEpochLoop):
    """Lightning's training loop without validation inside: that comes after the merge, in `SEALFitLoop`."""

    def advance(self, data_fetcher: Any) -> None:
        try:
            super().advance(data_fetcher)
        except MAYBE as error:
            if isinstance(error, SealError) or not is_out_of_memory(error):
                raise
            raise NoMemoryError(
                f"round {self.trainer.current_epoch + 1}, M-step: there is no memory for a batch "
                f"({' '.join(str(error).split())[:160]}): lower model.m_step.batch_size (with effective_batch the "
                "result stays the same) or max_length, or set model.tuning.gradient_checkpointing=true"
            ) from error

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return False

    def reset(self) -> None:
        with warnings.catch_warnings():  # the loader does start at the right batch, see SEALFitLoop.on_advance_start
            warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
            super().reset()


class SEALFitLoop(_FitLoop):
    """The rounds.

    Args:
        trainer: Its trainer.
        min_epochs: Fewest rounds, as in Lightning.
        max_epochs: Rounds.
        validate_first: Validate the untrained policy before the first round.
    """

    def __init__(self, trainer: Any, min_epochs: int | None, max_epochs: int | None, *, validate_first: bool) -> None:
        super().__init__(trainer, min_epochs=min_epochs, max_epochs=max_epochs)
        self.seal_trainer: Any = trainer  # Lightning's own type does not know callbacks, datamodule and module
        self.rollout_loop = RolloutLoop(trainer)
        self.validate_first = validate_first
        self.kept: list[EditOutcome] = []
        self.policy_digest = ""  # of the policy that this round's E-step sampled from
        self._stage: Stage = "round_end"  # where a checkpoint taken now would go on
        self._resumed = False  # from a checkpoint within a round, until its E-step is read back
        self.ended_early = False  # within a round
        self._to_train = False  # whether this round's M-step is still to be done

    # -- resume ------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self) -> dict:
        own = {"stage": self._stage, "policy_digest": self.policy_digest, "ranks": self.seal_trainer.world_size}
        return {**super().on_save_checkpoint(), **own}

    def on_load_checkpoint(self, state_dict: dict) -> None:
        super().on_load_checkpoint(state_dict)
        self._stage, self.policy_digest = state_dict["stage"], state_dict["policy_digest"]
        self._resumed = self._stage != "round_end"
        ranks = self.seal_trainer.world_size
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
        trainer = self.seal_trainer
        self._data_source.instance = trainer.lightning_module  # it makes the loader, not the data module
        if not self.kept:
            return
        given = trainer.limit_train_batches, trainer.overfit_batches
        trainer.limit_train_batches, trainer.overfit_batches = int(trainer.fast_dev_run) or 1.0, 0.0
        try:
            super().setup_data()
        finally:
            trainer.limit_train_batches, trainer.overfit_batches = given

    def on_advance_start(self) -> None:
        module = self.seal_trainer.lightning_module
        round, resumed = self.seal_trainer.current_epoch, self._resumed
        module.rounds_done = round
        try:
            if not resumed:
                self.policy_digest = module.policy.digest()
            if round == 0 and not resumed and self.validate_first:
                self.rollout_loop.check(round=round, policy_digest=self.policy_digest)
                with _without_metrics_of_a_round(self.seal_trainer):
                    self._validate()
            self._e_step(round, must_be_finished=resumed)
        except Stopped as stop:
            notify(self.seal_trainer, module, "on_stop")  # a checkpoint of the round's start
            self._end_early(stop)
        module.kept = self.kept
        self._to_train = bool(self.kept) and self._stage != "validation"
        # where the checkpoint was taken, `completed` is one behind
        position: Any = self.epoch_loop.batch_progress.current
        module.batch_start = position.processed if resumed and self._to_train else 0
        module.optimizer_steps = max(1, module.shares.steps(module.m_step_plan()))
        if not module.batch_start:
            restart_schedule(self.seal_trainer)
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
        trainer, module = self.seal_trainer, self.seal_trainer.lightning_module
        started = time.perf_counter()
        rollouts = self.rollout_loop.run(
            round=round, policy_digest=self.policy_digest, must_be_finished=must_be_finished
        )
        groups = group_rollouts(rollouts)
        chosen = self._filter().select(groups)
        if trainer.is_global_zero:
            self.rollout_loop.keep(chosen, round=round)
        self.kept = trainer.ranks.gather(chosen)[0]  # rank 0's choice, whatever a filter draws
        if trainer.fast_dev_run and not self.kept and (scored := _scored(groups)):
            log.warning("fast_dev_run: no self-edit was kept, the M-step is tried on one all the same")
            self.kept = scored[:1]
        tell_left_out(f"round {round + 1}", rollouts, only=trainer.is_global_zero)
        _tell_merit(round, self.kept, only=trainer.is_global_zero)
        module.e_step_metrics = e_step_metrics(rollouts, groups, self.kept, time.perf_counter() - started)
        trainer._logger_connector.log_metrics(module.e_step_metrics)
        if not trainer.barebones:
            # for who monitors them at the end of the validation, before Lightning's epoch is over
            now = {name: torch.tensor(value) for name, value in module.e_step_metrics.items()}
            trainer._logger_connector._callback_metrics.update(now)
        with logging_in_round(module):
            notify(trainer, module, "on_e_step_end", rollouts=rollouts, groups=groups, kept=self.kept)

    def _filter(self) -> EditFilter:
        return the_filter(self.seal_trainer.callbacks)

    def advance(self) -> None:
        if self._to_train:
            started = time.perf_counter()
            try:
                super().advance()
            except Stopped as stop:
                self._end_early(stop)
            metrics = {"m_step/seconds": time.perf_counter() - started}
            if truncated := self.seal_trainer.lightning_module.m_step_truncated:
                metrics["m_step/truncated"] = float(truncated)
            self.seal_trainer._logger_connector.log_metrics(metrics)
            return
        if not self.kept:
            log.info("round %d: no self-edit was kept, the policy stays as it is", self.seal_trainer.current_epoch)
        self.epoch_loop.batch_progress.reset_on_run()
        self.max_batches = float("inf")  # Lightning takes 0 batches for the end of the fit

    def on_advance_end(self) -> None:
        trainer, module = self.seal_trainer, self.seal_trainer.lightning_module
        module.rounds_done = self.seal_trainer.current_epoch + 1
        self._stage = "validation"
        if self._to_train:
            if module.policy.end_round(self.seal_trainer.current_epoch):
                restart_optimizer(trainer)
            module.check_policy()
            notify(trainer, module, "on_m_step_end")
        if self.epoch_loop._should_check_val_epoch():
            self._validate()
        self._stage = "round_end"
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
        trainer = self.seal_trainer
        trainer.validating = True
        first_iteration = trainer._logger_connector._first_loop_iter
        call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
        self.epoch_loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first_iteration
        torch.set_grad_enabled(True)


def _scored(groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
    return [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]


@contextmanager
def _without_metrics_of_a_round(trainer: Any) -> Iterator[None]:
    """Before the first round there is no reward to stop at: who monitors one looks at what there is."""
    strict = [one for one in trainer.callbacks if isinstance(one, EarlyStopping) and one.strict]
    for callback in strict:
        callback.strict = False
    try:
        yield
    finally:
        for callback in strict:
            callback.strict = True


@contextmanager
def logging_in_round(module: Any) -> Iterator[None]:
    """Within it `module.log` works as in `on_train_epoch_start`: loggers and whoever monitors see it with the round."""
    before, module._current_fx_name = module._current_fx_name, "on_train_epoch_start"
    try:
        yield
    finally:
        module._current_fx_name = before


def e_step_metrics(
    rollouts: Sequence[Rollout], groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome], seconds: float
) -> dict[str, float]:
    """What a round's E-step logs; rewards are over usable edits with their repeats averaged."""
    rewards = rewards_of(groups)
    inner = sum(rollout.seconds.get("inner loop", 0.0) for rollout in rollouts)
    steps = sum(rollout.steps for rollout in rollouts)
    usage = total_usage(rollouts)
    return {
        "round": float(rollouts[0].round if rollouts else 0),
        "reward/mean": rewards.mean,
        "reward/best": rewards.best,
        "reward/std_within_context": rewards.within,
        "e_step/rejected_frac": fmean(one.status == "rejected" for one in rollouts if one.repeat == 0),
        **_diverged(rollouts),
        "e_step/kept": float(len(kept)),
        "e_step/kept_without_merit": float(len(without_merit(kept))),
        **edit_metrics(rollouts, groups, kept),
        "e_step/seconds": seconds,
        "e_step/adapter_steps_per_s": steps / inner if inner else 0.0,
        **thought_metrics(rollouts),
        **({"racing/spent_frac": spent} if (spent := share_spent(rollouts)) is not None else {}),
        **term_metrics(rollouts),
        **{f"left_out/{name}": float(count) for name, count in _without_reasons(total_left_out(rollouts)).items()},
        **({f"endpoint/{name}": value for name, value in usage.as_dict().items()}),
    }


def _tell_merit(round: int, kept: Sequence[EditOutcome], *, only: bool) -> None:
    """Log how many kept edits are not worth imitating; other ranks than the first keep silent."""
    if only and (poor := without_merit(kept)):
        log.info(
            "round %d: %d of the %d kept edits without merit: no reward above 0, or no better than the baseline",
            round + 1,
            len(poor),
            len(kept),
        )


def edit_metrics(
    rollouts: Sequence[Rollout], groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]
) -> dict[str, float]:
    """Shares of a round's self-edits, how different those of a context are, and how long they are.

    A success is an edit whose mean gain is above 0, among all edits, rejected ones too; it is left out where no query
    tells. Diversity is that of `seal_lightning.results.diversity`, of usable edits. Lengths are means over edits, in
    characters and in the policy's tokens.
    """
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    first = [one for one in rollouts if one.kind == "edit" and one.repeat == 0]
    metrics: dict[str, float] = {}
    if outcomes:
        metrics["e_step/kept_frac"] = len(kept) / len(outcomes)
    if outcomes and any(one.questions for one in rollouts):
        won = [one for one in outcomes if one.reward is not None and one.gain > NEARLY]
        metrics["e_step/success_frac"] = len(won) / len(outcomes)
    if (found := diversity_of(groups)) is not None:
        metrics["edits/diversity"] = found
    if first:
        metrics["edits/characters"] = fmean(len(one.text) for one in first)
        metrics["edits/tokens"] = fmean(one.tokens.get("edit", 0) for one in first)
    return metrics


def _diverged(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The share of edits that diverged, where some did."""
    edits = {(one.context_id, one.edit_index) for one in rollouts if one.kind == "edit"}
    diverged = diverged_edits(rollouts)
    return {"e_step/diverged_frac": diverged / len(edits)} if diverged else {}


def thought_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How many texts thoughts were cut out of, and how many answers ended within one; empty where no model thinks."""
    return {f"thoughts/{name}": float(count) for name, count in total_thoughts(rollouts).items()}


def _without_reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Own queries that were dropped as one figure."""
    queries = sum(count for name, count in counts.items() if name.startswith(QUERIES))
    rest = {name: count for name, count in counts.items() if not name.startswith(QUERIES)}
    return {**rest, "queries": queries} if queries else rest


def term_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean and spread of each of the reward's terms, where it has several."""
    terms = terms_of([rollout for rollout in rollouts if rollout.kind == "edit"])
    return {
        name: value
        for term, (mean, spread) in (terms.items() if len(terms) > 1 else ())
        for name, value in ((f"reward_terms/{term}", mean), (f"reward_terms/{term}_std", spread))
    }
