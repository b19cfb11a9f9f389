"""LoRAs from anywhere (a generator, a folder, a sum of others) in a bank that answers with them, one a slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.models.lora import LoRA


def lora_bank(model: PreTrainedModel, loras: Sequence[LoRA]) -> AdapterBank:
    """A bank that answers with LoRAs, one a slot, whatever their layers, ranks and scales.

    `TrainedBank(lora_bank(model, loras), ())` lets them answer and saves them.
    """
    rank = max(lora.rank for lora in loras)
    layers = sorted({layer for lora in loras for layer in lora.layers})
    loras = [lora if lora.layers == layers else _filled(lora, layers, loras) for lora in loras]
    bank = AdapterBank(model, slots=len(loras), rank=rank, alpha=rank, target_modules=layers, trainable=False)
    with torch.no_grad():
        for name in layers:
            for table, matrix in zip((bank.A, bank.B), _stacked(loras, name, rank), strict=True):
                table[name][:, :rank].copy_(matrix)
    return bank


def _filled(lora: LoRA, layers: Sequence[str], others: Sequence[LoRA]) -> LoRA:
    """The LoRA with zeros in the layers that only others have."""
    state = dict(lora.state)
    for layer in set(layers) - set(lora.layers):
        shapes = next(other.matrices(layer) for other in others if layer in other.layers)
        for part, matrix in zip("AB", shapes, strict=True):
            shape = (lora.rank, matrix.shape[1]) if part == "A" else (matrix.shape[0], lora.rank)
            state[f"base_model.model.{layer}.lora_{part}.weight"] = matrix.new_zeros(shape)
    return LoRA(state, lora.scale)


def _stacked(loras: Sequence[LoRA], layer: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (N, rank, in) and B (N, rank, out) of a layer, with the scales in B."""
    pairs = [lora.matrices(layer) for lora in loras]
    pad = torch.nn.functional.pad
    A = torch.stack([pad(A.float(), (0, 0, 0, rank - len(A))) for A, _ in pairs])
    B = torch.stack(
        [pad(lora.scale * B.float().T, (0, 0, 0, rank - B.shape[1])) for lora, (_, B) in zip(loras, pairs, strict=True)]
    )
    return A, B
