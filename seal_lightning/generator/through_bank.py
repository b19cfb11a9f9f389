"""Generated adapters at work in the bank, and the way back: its gradient buffers are dL/dA and dL/dB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from seal_lightning.generator.base import Adapters, Generator, flat_rows
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.capacity import PASS_ON_CPU
from seal_lightning.inner_loop.isolation import BatchLoss, training_way
from seal_lightning.inner_loop.packing import PackedSequence


def make_bank(settings: Generator, model: PreTrainedModel, *, slots: int, trainable: bool) -> AdapterBank:
    """A bank for so many adapters of a generator; with gradients if it is to be learnt from."""
    return AdapterBank(
        model,
        slots=slots,
        rank=settings.rank,
        alpha=settings.alpha,
        target_modules=settings.target_modules,
        trainable=trainable,
    )


@torch.no_grad()
def fill_bank(bank: AdapterBank, adapters: Adapters) -> torch.Tensor:
    """Put adapters into the first slots of a bank; returns their rows (N, P)."""
    rows = flat_rows(adapters, list(bank.A), bank.width)
    for slot, row in enumerate(rows):
        bank.fill(slot, row, rank=bank.rank)
    return rows


def losses_through(
    bank: AdapterBank,
    rows: torch.Tensor,
    sequences: Sequence[PackedSequence],
    loss: BatchLoss,
    *,
    max_tokens: int = PASS_ON_CPU,
) -> torch.Tensor:
    """The loss of each adapter on its own sequences, (N,), differentiable by the rows that made the adapters.

    Args:
        bank: A trainable one with at least N slots, whose adapters are replaced.
        rows: (N, P), as `flat_rows` makes them.
        sequences: Each names its slot; the losses of a slot are summed with the sequences' weights.
        loss: The loss of a batch's targets.
        max_tokens: Tokens of a forward pass.
    """
    return _Through.apply(rows, bank, sequences, loss, max_tokens)  # type: ignore[return-value]


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        bank: AdapterBank,
        sequences: Sequence[PackedSequence],
        loss: BatchLoss,
        max_tokens: int,
    ) -> torch.Tensor:
        assert bank.gradients is not None, "the bank is made for training"
        for slot, row in enumerate(rows.detach()):
            bank.fill(slot, row, rank=bank.rank)
        bank.clear_gradients()
        losses = torch.zeros(len(rows), device=bank.device, dtype=torch.float32)
        way = training_way(bank.model, list(bank.A), longest=max(len(one.tokens) for one in sequences))
        with torch.enable_grad(), bank.attached():
            for batch in way.passes(sequences, max_tokens=way.room(bank.model, max_tokens)):
                moved = batch.to(bank.device)
                losses.index_add_(0, moved.owners, way.backward(bank, loss, moved))
        ctx.save_for_backward(bank.gradients[: len(rows)].clone())
        return losses

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (gradients,) = ctx.saved_tensors
        return grad[:, None] * gradients, None, None, None, None
