"""Callbacks that know SEAL's steps: what they may override, what they may use, and how the loops call them.

Lightning's own dispatcher only knows its own hooks, so the E-step has one here. `EditFilter` is the base of every rule
that decides which self-edits the policy learns from; a run has exactly one (`filter:` in the YAML).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.errors import ConfigError
from seal_lightning.stamps.arguments import Remembers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seal_lightning.data import SEALDataModule
    from seal_lightning.e_step.step import EStep
    from seal_lightning.m_step.batches import MStep
    from seal_lightning.models.loading import ModelSource
    from seal_lightning.policy.policy import Policy
    from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
    from seal_lightning.progress.clock import Progress
    from seal_lightning.types import Context, EditOutcome, Rollout, RolloutGroup


class RunTrainer(Trainer, Remembers):
    """A `SEALTrainer` as callbacks see it: what they may use beside what Lightning's trainer has.

    Attributes:
        run_settings: The settings of the run as `config.yaml` has them: nested plain values, without secrets. Known to
            the first process once the run has begun (`on_run_begin`); empty before, and with `fast_dev_run`.
    """

    callbacks: list[Callback]
    datamodule: SEALDataModule
    fast_dev_run: bool | int
    overfit_batches: int | float
    run_settings: Mapping[str, object]

    @property
    def checkpoints(self) -> Path:
        """The folder with `last.ckpt` and `best.ckpt`."""
        return Path(self.default_root_dir) / "checkpoints"


class RunModule(LightningModule, Remembers):
    """A `SEALModule` as callbacks see it.

    Attributes:
        policy: The model that writes self-edits and learns from them.
        base_fingerprint: Fingerprint of the weights of its base model.
        rounds_done: Rounds that the policy has behind it.
        kept: Edits that the filter chose in the latest round.
        taught: What its M-step learns from them, each an item of its batches; empty where it is skipped.
        evaluated: Rollouts of the latest validation, test or prediction.
        e_step_metrics: Figures of the latest E-step, as they were logged.
        m_step_metrics: Figures of the latest M-step, as they were logged.
        m_step_told: What the latest round teaches, in a few words, where the M-step compares edits.
    """

    trainer: RunTrainer
    policy: TunedPolicy
    base_fingerprint: str = ""
    source: ModelSource
    tuning: PolicyTuning
    e_step: EStep
    m_step: MStep
    evaluation: EStep
    seed: int
    rounds_done: int = 0
    kept: list[EditOutcome]
    taught: Sequence[object]
    evaluated: list[Rollout]
    e_step_metrics: dict[str, float]
    m_step_metrics: dict[str, float]
    m_step_told: str = ""

    def ask_closed_book(self, policy: Policy, contexts: Sequence[Context]) -> list[Answered]:
        """What is left of what the policy knew: its answers to the queries of some contexts, without their passages."""
        return ask_closed_book(self.e_step, policy, contexts)

    def check_policy(self) -> None:
        """Raise `DivergedError` where the policy can no longer be asked; a collective."""


class SEALCallback(Callback, Remembers):
    """A Lightning callback with hooks around units of work and the E-step.

    `phase` is train, validation, test or predict.
    """

    def on_run_begin(self, trainer: RunTrainer, module: RunModule) -> None:
        """Every check has passed and work begins; the run folder is untouched until then. Called once a run."""

    def on_units_start(self, trainer: RunTrainer, module: RunModule, *, phase: str, units: int, finished: int) -> None:
        """Work on `units` units begins; `finished` of them are already in the journal."""

    def on_unit_progress(self, trainer: RunTrainer, module: RunModule, *, phase: str, progress: Progress) -> None:
        """Something was done within the current unit; called often."""

    def on_unit_end(
        self, trainer: RunTrainer, module: RunModule, *, phase: str, unit: int, rollouts: Sequence[Rollout]
    ) -> None:
        """This process has finished a unit, and it is in the journal."""

    def on_units_progress(self, trainer: RunTrainer, module: RunModule, *, phase: str, finished: int) -> None:
        """Any ranks have finished this many units so far; called often while this process waits for others."""

    def on_units_end(
        self,
        trainer: RunTrainer,
        module: RunModule,
        *,
        phase: str,
        rollouts: Sequence[Rollout],
        seconds: Sequence[Sequence[float]],
    ) -> None:
        """All units of the phase are finished; `seconds[rank]` are what each rank spent on its units of this run."""

    def on_e_step_end(
        self,
        trainer: RunTrainer,
        module: RunModule,
        *,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
    ) -> None:
        """The filter has chosen; the M-step is next."""

    def on_m_step_end(self, trainer: RunTrainer, module: RunModule) -> None:
        """The policy has learned what was kept, and its adapter is merged; validation is next."""

    def on_stop(self, trainer: RunTrainer, module: RunModule) -> None:
        """A signal stops the run before or within the M-step, on all ranks; the run ends after this hook."""


class EditFilter(SEALCallback):
    """Chooses the self-edits that the policy is fine-tuned on.

    Attributes:
        by_reward: Whether it keeps the edits with the best rewards, as a race over edits takes for granted.
    """

    by_reward: ClassVar[bool] = True

    @abstractmethod
    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        """The kept edits of a round, in a fixed order."""

    def compared(self, groups: Sequence[RolloutGroup]) -> Sequence[RolloutGroup]:
        """All edits of a round with the rewards by which the M-step compares them, for objectives other than `sft`."""
        return groups

    def remark(self) -> str:
        """What is to be logged about the latest choice, in a few words; empty where there is nothing to say."""
        return ""


def check_one_filter(callbacks: Iterable[Callback]) -> EditFilter | None:
    """The filter among callbacks, or None. Raises `ConfigError` for several: a round keeps the edits of one."""
    filters = [callback for callback in callbacks if isinstance(callback, EditFilter)]
    if len(filters) > 1:
        names = " and ".join(type(chosen).__name__ for chosen in filters)
        raise ConfigError(f"filter: expected one filter among the callbacks, got {names}: leave out all but one")
    return filters[0] if filters else None


def the_filter(callbacks: Iterable[Callback]) -> EditFilter:
    """The filter of a run. Raises `ConfigError` where there is none, or there are several."""
    if (chosen := check_one_filter(callbacks)) is None:
        raise ConfigError(
            "filter: expected one filter among the callbacks, got none: add seal_lightning.callbacks.ReSTEMFilter()"
        )
    return chosen


def notify(trainer: RunTrainer, module: RunModule, hook: str, **what: object) -> None:
    """Call one hook of every `SEALCallback` of the trainer, in their order."""
    for callback in trainer.callbacks:
        if isinstance(callback, SEALCallback):
            getattr(callback, hook)(trainer, module, **what)
