"""The policy of a trained module as the E-step asks it: frozen, under the trainer's precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.plugins.precision import Precision

    from seal_lightning.policy.policy import Policy
    from seal_lightning.policy.tuned import TunedPolicy


class HasPolicy(Protocol):
    """A module with a policy, such as `SEALModule`."""

    @property
    def policy(self) -> TunedPolicy: ...


@contextmanager
def policy_at_work(trainer: Trainer, module: HasPolicy) -> Iterator[Policy]:
    """The module's policy, frozen, under the trainer's precision."""
    with precise(trainer.precision_plugin), module.policy.frozen() as policy:
        yield policy


@contextmanager
def precise(precision: Precision) -> Iterator[None]:
    """Within it Lightning's precision plugin is at work, but new tensors stay float32.

    Its true half precision would halve them too, but noise, learning rates and adapters need their bits.
    """
    with precision.forward_context():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
