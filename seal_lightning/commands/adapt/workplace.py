"""What the adapters of `seal adapt` are made with, and where they are put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.commands.adapt.jobs import Adapter
from seal_lightning.e_step.step import EStep
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import Screen


@dataclass(frozen=True, slots=True)
class Workplace:
    """Everything that making an adapter takes besides the adapter's own job.

    Attributes:
        e_step: Asks and grades.
        policy: The frozen policy.
        output: The folder of the command.
        stamp: Fingerprint of the policy.
        every_steps: Optimizer steps between two checkpoints.
        merged: Whether whole weights are written too.
        source: The base model as it was loaded.
        base: The base model as cards name it.
        data_licence: The documents' licence, for the cards.
        unread: How many files beside the documents were left out.
        screen: Shows progress.
        check_stop: Raises where a signal asked the command to stop.
    """

    e_step: EStep
    policy: Policy
    output: Path
    stamp: str
    every_steps: int
    merged: bool
    source: ModelSource
    base: Origin
    data_licence: str | None
    unread: int
    screen: Screen
    check_stop: Callable[[], None]

    def folder(self, adapter: Adapter) -> Path:
        """The PEFT folder of an adapter."""
        return self.output / "adapters" / adapter.name

    def merged_folder(self, adapter: Adapter) -> Path:
        """The folder of the whole weights with an adapter merged in."""
        return self.output / "merged" / adapter.name
