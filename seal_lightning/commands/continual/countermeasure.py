"""What a countermeasure against forgetting may do: three places in every step of a stream.

A step learns one context after others. A countermeasure can add to what the adapter is trained on, have a say in its
training, and change what was learnt before that is added to the policy. One of your own subclasses `Countermeasure` and
is named in YAML by `class_path`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.slots import Regulariser
from seal_lightning.models.lora import LoRA
from seal_lightning.policy.policy import Policy
from seal_lightning.types import Context, TrainingSequence

Sequences = tuple[TrainingSequence, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """A context that the stream has learnt.

    Attributes:
        context: What it was.
        sequences: Its own training sequences, as its self-edit gave them; () for an edit that could not be used.
        lora: What was added to the policy; None where nothing could be trained.
    """

    context: Context
    sequences: Sequences
    lora: LoRA | None


class Countermeasure:
    """Against forgetting; this one does nothing, which is the plain stream.

    What it does must follow from its arguments and options alone, so that a stream that was stopped goes on as if it
    had not been. For example, learning every context twice as long:

    >>> class Twice(Countermeasure):
    ...     short = "twice"
    ...     def sequences(self, own, earlier, *, seed):
    ...         return own * 2
    >>> Twice().label
    'twice'

    Args:
        label: What tables and folders call it; needed where one kind is used twice with other options.
    """

    short: ClassVar[str] = "plain"

    def __init__(self, *, label: str | None = None) -> None:
        self.label = label or self.short
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", self.label):
            raise ConfigError(
                f"label must consist of letters, digits, '.', '+', '_' and '-', got {label!r}: it names a folder"
            )

    def begin(self, policy: Policy, *, seed: int) -> None:
        """Look at the policy before the stream's first step; called again when a stopped stream goes on."""

    def sequences(self, own: Sequences, earlier: Sequence[Learnt], *, seed: int) -> Sequences:
        """What the adapter is trained on; its own training sequences first."""
        return own

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        """What has a say in the adapter's training; `policy` has learnt what is `earlier`."""
        return None

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy) -> LoRA:
        """What is added to the policy for the adapter `new`."""
        return new
