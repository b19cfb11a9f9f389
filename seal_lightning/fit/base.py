"""Trainer and module as the parts of a fit see them: `SEALTrainer` and `SEALModule` import those parts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.predictions import AnsweringStep
from seal_lightning.e_step.step import EStep
from seal_lightning.fit.executors import Executor
from seal_lightning.fit.limits import Limit
from seal_lightning.fit.processes import RunProcesses
from seal_lightning.fit.run_folder import RunFolder
from seal_lightning.hooks import RunModule, RunTrainer, the_filter
from seal_lightning.m_step.batches import Shares
from seal_lightning.stamps.run import Record
from seal_lightning.types import EditOutcome, JsonObject, RolloutGroup


class FitModule(RunModule):
    """What the loops and the units of work use beside what callbacks may use."""

    trainer: FitTrainer
    datamodule: SEALDataModule
    parts: EStep  # a plain E-step with all parts of the module's
    answers_queries: bool  # whether a prediction adapts to each edit and answers the queries, as `evaluation` says
    base_stamp: JsonObject  # what the stamp of a run says of the base model
    batch_start: int = 0  # batches of this round's M-step that were done before the run was resumed
    optimizer_steps: int = 1  # of this round's M-step
    taught: Sequence[Any]
    m_step_truncated: int = 0  # edits that were cut to `m_step.max_length`
    limits: dict[str, Limit]  # how much of each phase of the command is done
    record: Record  # what the fit depends on, once it has begun
    record_saved: bool = True  # or need not be saved, as for other commands
    less_memory: ClassVar[str] = " or max_length, or set model.tuning.gradient_checkpointing=true"  # in an M-step
    answering: ClassVar[type[EStep]] = AnsweringStep  # what a prediction of answers is made by

    def choose(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        """The edits of a round that are learnt from."""
        return list(the_filter(self.trainer.callbacks).select(groups))

    @property
    def batches(self) -> int:
        """Batches of this round's M-step, over all ranks."""
        return self.m_step.batches(len(self.taught))

    def teaches(self, groups: Sequence[RolloutGroup]) -> Sequence[object]:
        """What the M-step learns of a round whose edits were kept; a collective."""
        raise NotImplementedError

    def end_m_step(self) -> dict[str, float]:
        """Figures of the M-step that ends, for the log; a collective."""
        raise NotImplementedError


class FitTrainer(RunTrainer):
    """What the loops, the module and the units of work use beside what callbacks may use."""

    lightning_module: FitModule
    processes: RunProcesses  # the ranks, and what stops them
    folder: RunFolder  # the run folder and its owner
    executor: Executor  # where units of work run
    validate_first: bool  # whether the untrained policy is validated before the first round
    shares: Shares  # how the batches of an optimizer step are shared out; known once there is a module to fit
    given_accumulation: int  # batches an optimizer step, as the user gave them; the ranks share them out
    allow_other_versions: bool  # whether a run that other versions began may go on

    def begin(self) -> None:
        """Every check has passed: loggers start and callbacks are told, once a run, before its first unit of work."""
        raise NotImplementedError
