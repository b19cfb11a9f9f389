"""What the policy at a round's start says of the edits that the M-step learns from: log-probabilities, token by token.

They are asked once, before the first step, of the policy as the E-step had it: frozen, without dropout. So they are
right for any way of fine-tuning, whether or not the round's start can be had again later. A run that stopped within an
M-step goes on with those of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from seal_lightning.errors import CheckpointError
from seal_lightning.m_step.batches import TaughtExamples, collated
from seal_lightning.m_step.objectives import IGNORED, edit_logps
from seal_lightning.policy.policy import Policy

References = list[list[torch.Tensor]]  # by number of what is taught, then by edit: (tokens,) float32, on the CPU


@torch.no_grad()
def reference_logps(
    policy: Policy, taught: Sequence[TaughtExamples], *, batch_size: int, rank: int = 0, ranks: int = 1
) -> References:
    """This rank's share of the references, which `joined` puts together.

    Batches are the same on any number of ranks, so that the numbers are. Nothing here is a collective.

    Args:
        policy: The frozen policy of the round's start.
        taught: What the round teaches.
        batch_size: How many of them are asked about together.
        rank: This rank; it takes every batch whose number is `rank` modulo `ranks`.
        ranks: How many ranks there are.
    """
    pad, found = policy.tokenizer.pad_token_id, []
    starts = range(0, len(taught), batch_size)
    for at in starts[rank::ranks]:
        some = taught[at : at + batch_size]
        batch = {name: value.to(policy.device) for name, value in collated(some, pad=pad).items()}
        logps, mask = (value.cpu() for value in edit_logps(policy.model, batch))
        rows = iter([row[own > 0] for row, own in zip(logps, mask, strict=True)])
        found += [[next(rows) for _ in one.examples] for one in some]
    return found


def joined(shares: Sequence[References], *, batch_size: int) -> References:
    """The references of all ranks, given by rank, in the order of what is taught."""
    ranks, total = len(shares), sum(map(len, shares))
    own = [iter(share) for share in shares]
    return [next(own[number // batch_size % ranks]) for number in range(total)]


def with_references(taught: Sequence[TaughtExamples], references: References) -> list[TaughtExamples]:
    """What is taught with the references beside it, cut to the edits' length.

    Raises:
        CheckpointError: They are of other or shorter edits, as where `model.m_step.max_length` was raised since.
    """
    made = []
    for one, logps in zip(taught, references, strict=True):
        counts = [sum(label != IGNORED for label in example.labels[1:]) for example in one.examples]
        if any(len(known) < count for known, count in zip(logps, counts, strict=True)):
            raise CheckpointError(
                "the checkpoint was taken within an M-step, and its references are of shorter edits: set "
                "model.m_step.max_length to what it was, or move checkpoints/last.ckpt away (the round's E-step is in "
                "the journal). Nothing was overwritten"
            )
        cut = tuple(known[:count] for known, count in zip(logps, counts, strict=True))
        made.append(replace(one, reference=cut))
    return made
