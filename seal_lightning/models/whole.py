"""Whole weights of a model with what was added to it, as a folder that needs no adapter and no quantisation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal_lightning.files.served import save_model
from seal_lightning.models.beside import check_own, is_quantised, note_shared, whole_weight
from seal_lightning.models.lora import LoRA
from seal_lightning.models.partitioned import whole


@torch.no_grad()
def whole_state(model: PreTrainedModel, lora: LoRA | None = None, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """A model's weights by their names in the plain model, on the CPU; packed ones dequantised.

    Args:
        model: May carry peft adapters, which are left out.
        lora: A LoRA to add to them.
        keep: False on ranks that only help to gather what ZeRO-3 has spread.

    Raises:
        ModelError: A quantised weight cannot be written, or one that several layers share has an update of one.
    """
    note_shared(model)
    state: dict[str, torch.Tensor] = {}
    updated = set(lora.layers) if lora else set()
    met: set[int] = set()  # tied weights are written once
    for place, module in model.named_modules():
        if ".lora_" in place:
            continue
        layer = place.removesuffix(".base_layer")
        check_own(layer, module, updated=layer in updated)
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in met:
                continue
            met.add(id(parameter))
            with whole([parameter]):
                if keep:
                    value: Any = parameter
                    if key == "weight" and isinstance(module, nn.Linear | Conv1D):
                        value = whole_weight(module, lora.delta(layer) if lora and layer in updated else None)
                    state[f"{layer}.{key}"] = value.detach().to("cpu", copy=True)
    saved = model.state_dict().keys()
    return state | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def save_whole(model: PreTrainedModel, folder: str | Path, state: dict[str, torch.Tensor]) -> None:
    """Write the weights of `whole_state` with the model's configuration, without mention of quantisation."""
    if is_quantised(model):
        model = _unquantised(model)
    save_model(model, folder, state=state)


def _unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same architecture without weights, which writes the configuration."""
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config")
    with torch.device("meta"):
        plain = type(model)(config)
    plain.generation_config = model.generation_config
    return plain
