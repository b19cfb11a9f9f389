"""Trainer and module as the parts of a fit see them: `SEALTrainer` and `SEALModule` import those parts themselves."""

from __future__ import annotations

from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.step import EStep
from seal_lightning.fit.executors import Executor
from seal_lightning.fit.limits import Limit
from seal_lightning.fit.processes import RunProcesses
from seal_lightning.fit.run_folder import RunFolder
from seal_lightning.hooks import RunModule, RunTrainer
from seal_lightning.m_step.batches import Shares
from seal_lightning.stamps.run import Record
from seal_lightning.types import JsonObject


class FitModule(RunModule):
    """What the loops and the units of work use beside what callbacks may use.

    Attributes:
        parts: A plain E-step with all parts of the module's.
        answers_queries: Whether a prediction adapts to each edit and answers the queries, as `evaluation` says; else it
            writes edits only.
        base_stamp: What the stamp of a run says of the base model.
        batch_start: Batches of this round's M-step that were done before the run was resumed.
        optimizer_steps: Optimizer steps of this round's M-step.
        m_step_truncated: Kept edits that were cut to `m_step.max_length`.
        limits: How much of each phase of the command is done.
        record: What the fit depends on, once it has begun.
        record_saved: Whether the record is written, or need not be, as for other commands.
    """

    trainer: FitTrainer
    datamodule: SEALDataModule
    parts: EStep
    answers_queries: bool
    base_stamp: JsonObject
    batch_start: int = 0
    optimizer_steps: int = 1
    m_step_truncated: int = 0
    limits: dict[str, Limit]
    record: Record
    record_saved: bool = True

    def m_step_plan(self) -> int:
        """Batches of all ranks in this round's M-step."""
        raise NotImplementedError


class FitTrainer(RunTrainer):
    """What the loops, the module and the units of work use beside what callbacks may use.

    Attributes:
        processes: The ranks, and what stops them.
        folder: The run folder and its owner.
        executor: Where units of work run.
        validate_first: Whether the untrained policy is validated before the first round.
        shares: How the batches of an optimizer step are shared out; known once there is a module to fit.
        given_accumulation: Batches an optimizer step, as the user gave them; the ranks share them out.
        allow_other_versions: Whether a run that other versions began may go on.
    """

    lightning_module: FitModule
    processes: RunProcesses
    folder: RunFolder
    executor: Executor
    validate_first: bool
    shares: Shares
    given_accumulation: int
    allow_other_versions: bool

    def begin(self) -> None:
        """Every check has passed: loggers start and callbacks are told, once a run, before its first unit of work."""
        raise NotImplementedError
