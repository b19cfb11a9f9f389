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


def units_that_fill(step: EStep, policy: Policy, units: Sequence[Sequence[Context]]) -> int:
    """How many of the units the policy's device takes at a time: one on a CPU, and of what cannot share batches.

    Args:
        step: What is done with a unit.
        policy: Frozen and in evaluation mode.
        units: The contexts of each.
    """
    if policy.device.type == "cpu" or not step.takes_several(units):
        return 1
    plan = step.plan
    each = plan.edits if plan.racing or not step.adapts else plan.edits * plan.repeats  # at the same time
    each += (plan.passage_only + plan.written) * step.adapts
    full = REFILLS * step.inner_loop.slots(policy.model) if step.adapts else EDITS
    return max(1, full // (each * max(map(len, units))))
