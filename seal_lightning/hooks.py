"""Callbacks that know SEAL's steps: what they may override, and how the loops call them.

Lightning's own dispatcher only knows its own hooks, so the E-step has one here. `EditFilter` is the base of every rule
that decides which self-edits the policy learns from; a run has exactly one (`filter:` in the YAML).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback, Trainer

from seal_lightning.errors import ConfigError
from seal_lightning.progress.clock import Progress
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


class SEALCallback(Callback, Remembers):
    """A Lightning callback with hooks around units of work and the E-step.

    `phase` is train, validation, test or predict.
    """

    def on_run_begin(self, trainer: Trainer, module: Any) -> None:
        """Every check has passed, and work begins; nothing was written into the run folder before. Once a run."""

    def on_units_start(self, trainer: Trainer, module: Any, *, phase: str, units: int, finished: int) -> None:
        """Work on `units` units begins; `finished` of them are already in the journal."""

    def on_unit_progress(self, trainer: Trainer, module: Any, *, phase: str, progress: Progress) -> None:
        """Something was done within the current unit; called often."""

    def on_unit_end(self, trainer: Trainer, module: Any, *, phase: str, unit: int, rollouts: Sequence[Rollout]) -> None:
        """This process has finished a unit, and it is in the journal."""

    def on_units_progress(self, trainer: Trainer, module: Any, *, phase: str, finished: int) -> None:
        """So many units are finished by now, by any rank; called often while this process waits for others."""

    def on_units_end(
        self,
        trainer: Trainer,
        module: Any,
        *,
        phase: str,
        rollouts: Sequence[Rollout],
        seconds: Sequence[Sequence[float]],
    ) -> None:
        """All units of the phase are finished; `seconds[rank]` are what each rank spent on its units of this run."""

    def on_e_step_end(
        self,
        trainer: Trainer,
        module: Any,
        *,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
    ) -> None:
        """The filter has chosen; the M-step is next."""

    def on_m_step_end(self, trainer: Trainer, module: Any) -> None:
        """The policy has learned what was kept, and its adapter is merged; validation is next."""

    def on_stop(self, trainer: Trainer, module: Any) -> None:
        """A signal stops the run before the M-step or within it, on all ranks; it ends after this hook."""


class EditFilter(SEALCallback):
    """Chooses the self-edits that the policy is fine-tuned on.

    Attributes:
        by_reward: Whether it keeps the edits with the best rewards, as a race over edits takes for granted.
    """

    by_reward: ClassVar[bool] = True

    @abstractmethod
    def select(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        """The kept edits of a round, in a fixed order."""


def check_one_filter(callbacks: Iterable[Callback]) -> EditFilter | None:
    """The filter among callbacks; None where there is none.

    Raises:
        ConfigError: There are several, and a round keeps the edits of one.
    """
    filters = [callback for callback in callbacks if isinstance(callback, EditFilter)]
    if len(filters) > 1:
        names = " and ".join(type(one).__name__ for one in filters)
        raise ConfigError(f"filter: expected one filter among the callbacks, got {names}: leave out all but one")
    return filters[0] if filters else None


def the_filter(callbacks: Iterable[Callback]) -> EditFilter:
    """The filter of a run.

    Raises:
        ConfigError: There is none, or there are several.
    """
    if (found := check_one_filter(callbacks)) is None:
        raise ConfigError(
            "filter: expected one filter among the callbacks, got none: add seal_lightning.callbacks.ReSTEMFilter()"
        )
    return found


def notify(trainer: Trainer, module: Any, hook: str, **what: Any) -> None:
    """Call one hook of every `SEALCallback` of the trainer, in their order."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SEALCallback):
            getattr(callback, hook)(trainer, module, **what)
