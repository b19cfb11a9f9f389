"""How many units of work fill a device: a GPU is idle for the most part while it adapts to a few contexts.

Units keep what is in them, and their place in the journal; they only share their batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.e_step.step import EStep
from seal_lightning.policy.policy import Policy
from seal_lightning.types import Context

REFILLS = 3  # adapters for each slot: the slots of short trainings are filled again while long ones go on
EDITS = 256  # where none is trained


def units_that_fill(
    step: EStep, policy: Policy, units: Sequence[Sequence[Context]], *, adapts: bool | None = None
) -> int:
    """How many of the units the policy's device takes at a time: one on a CPU, and of what cannot share batches.

    Args:
        step: What is done with a unit.
        policy: Frozen and in evaluation mode.
        units: The contexts of each.
        adapts: Whether adapters are trained, where the step does not say it.
    """
    if policy.device.type == "cpu" or not step.takes_several(units):
        return 1
    plan, adapts = step.plan, step.adapts if adapts is None else adapts
    each = plan.edits if plan.racing or not adapts else plan.edits * plan.repeats  # at the same time
    each += (plan.passage_only + plan.written) * adapts
    full = REFILLS * step.inner_loop.slots(policy.model) if adapts else EDITS
    return max(1, full // (each * max(map(len, units))))
