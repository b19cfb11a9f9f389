"""What a countermeasure against forgetting may do: it has three hooks in every step of a stream.

A step learns one context after others. A countermeasure can add to the adapter's training data, regularise its
training, and change the result before it is added to the policy. Your own subclasses `Countermeasure` and is named in
YAML by its `class_path`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from seal_lightning.e_step.step import EStep
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
        context: The context.
        sequences: Training sequences of its self-edit; () if the edit was not usable.
        lora: What was added to the policy; None if nothing could be trained.
    """

    context: Context
    sequences: Sequences
    lora: LoRA | None


class Countermeasure:
    """Base class of countermeasures against forgetting; it does nothing, which gives the plain stream.

    What a countermeasure does must follow from its arguments and options alone, so that a stopped stream resumes as if
    it had never been stopped. For example, this one learns every context twice as long:

    >>> class Twice(Countermeasure):
    ...     short = "twice"
    ...     def sequences(self, own, earlier, *, seed):
    ...         return own * 2
    >>> Twice().label
    'twice'

    Args:
        label: Name in tables and folders; needed if one kind is used twice with different options.
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
        """What the adapter is trained on, its own training sequences first."""
        return own

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        """What regularises the adapter's training; `policy` has learnt what is `earlier`."""
        return None

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy, e_step: EStep) -> LoRA:
        """What is added to the policy in place of the adapter `new`.

        The matrices of `new` with another scale are a scaled update, with scale 0 a refused one: tables count them.

        Args:
            new: The adapter.
            earlier: What the stream has learnt before it.
            policy: The policy, which has learnt that.
            e_step: Asks and grades as the stream does.
        """
        return new


def check_above_0(name: str, value: float, *, largest: float = math.inf, advice: float = 0.9) -> float:
    """The value of an option, if it is in its range. Raises `ConfigError`."""
    if not 0 < value <= largest:
        most = "" if largest == math.inf else f" and at most {largest}"
        raise ConfigError(f"{name} must be above 0{most}, got {value}: try {advice}")
    return value
