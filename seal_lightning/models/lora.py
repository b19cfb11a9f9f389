"""A LoRA by peft's names: added to a model, stacked with others, written as a PEFT folder or with whole weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ModelError
from seal_lightning.files.digests import damage, recorded_in
from seal_lightning.files.saving import whole_files
from seal_lightning.files.served import save_model, write_tensors
from seal_lightning.models.beside import add_update, check_own, is_quantised, note_shared, whole_weight
from seal_lightning.models.partitioned import whole

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_CARRIED = "_carried_adapter"  # on a model
_BASE = "_base_name"


@dataclass(frozen=True, slots=True)
class LoRA:
    """A LoRA by peft's parameter names, A (r, in) and B (out, r), whose product counts `scale` times."""

    state: dict[str, torch.Tensor]
    scale: float

    @property
    def layers(self) -> list[str]:
        """The layers that it changes, sorted, by their names in the plain model."""
        return sorted({name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in self.state})

    def matrices(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) of a layer."""
        lora_A, lora_B = (self.state[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
        return lora_A, lora_B

    def delta(self, layer: str) -> torch.Tensor:
        """What it adds to a layer's weight, (out, in), in float32."""
        lora_A, lora_B = self.matrices(layer)
        return lora_B.float() @ lora_A.float() * self.scale

    def to(self, dtype: torch.dtype) -> LoRA:
        """The same with its matrices in another type."""
        return LoRA({name: tensor.to(dtype) for name, tensor in self.state.items()}, self.scale)

    @property
    def rank(self) -> int:
        """Rank of its first layer."""
        return next(tensor for name, tensor in self.state.items() if ".lora_A." in name).shape[0]


def stack(parts: Sequence[LoRA]) -> LoRA:
    """Several LoRAs on the same base as one of scale 1, with the sum of their ranks in every layer.

    Layers that only some of them change are filled up with zeros, because servers such as vLLM want one rank.
    """
    layers = sorted({name.rsplit(".lora_", 1)[0] for part in parts for name in part.state})
    stacked: dict[str, torch.Tensor] = {}
    for layer in layers:
        lora_A, lora_B = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        wide, tall = next((part.state[lora_A], part.state[lora_B]) for part in parts if lora_A in part.state)
        rows, columns = [], []
        for part in parts:
            rows.append(part.state.get(lora_A, wide.new_zeros(part.rank, wide.shape[1])).float())
            columns.append(part.scale * part.state.get(lora_B, tall.new_zeros(tall.shape[0], part.rank)).float())
        stacked[lora_A], stacked[lora_B] = torch.cat(rows).contiguous(), torch.cat(columns, dim=1).contiguous()
    return LoRA(stacked, 1.0)


def check_undamaged(folder: Path) -> None:
    """Check that weights are those that were written, if a result file beside them has recorded that.

    Raises:
        ModelError: The weights are damaged.
    """
    if found := damage(folder, recorded_in(folder)):
        raise ModelError(
            f"{folder}: expected the weights that were written there, got damaged ones: {found}; copy the folder "
            "again, or resume the run that wrote it (if you changed them on purpose, remove sha256 from the JSON there)"
        )


def merge_lora(model: PreTrainedModel, lora: LoRA) -> None:
    """Make a plain model act with a LoRA that is for it: in its weights, or beside those that cannot hold it.

    Raises:
        ModelError: The model lacks a layer, or has it in another shape.
    """
    note_shared(model)
    check_fits(model, lora)
    layers = dict(model.named_modules())
    for name in lora.layers:
        add_update(layers[name], *lora.matrices(name), scale=lora.scale)


def check_fits(model: PreTrainedModel, lora: LoRA) -> None:
    """Raises `ModelError` where the model lacks a layer of a LoRA, or has it in another shape."""
    layers = dict(model.named_modules())
    for name in lora.layers:
        lora_A, lora_B = lora.matrices(name)
        expected, got = _sizes(layers.get(name)), (lora_B.shape[0], lora_A.shape[1])
        if expected != got:
            raise ModelError(
                f"expected an adapter that fits the model ({name}: {expected}), got {got}: give its own base"
            )


def _sizes(layer: nn.Module | None) -> tuple[int, int] | None:
    """Outputs and inputs of a linear layer, whatever its weight is packed into."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return (layer.weight.shape[1], layer.weight.shape[0]) if isinstance(layer, Conv1D) else None


def carry(model: PreTrainedModel, lora: LoRA) -> None:
    """Merge the adapter that a base model was loaded with; exports are for the base without it, so they contain it.

    Raises:
        ModelError: As `merge_lora`.
    """
    merge_lora(model, lora)
    before = carried(model)
    setattr(model, _CARRIED, stack([before, lora]) if before else lora)


def carried(model: PreTrainedModel) -> LoRA | None:
    """The adapter that a model was loaded with, if its name was a PEFT folder's."""
    return getattr(model, _CARRIED, None)


def note_base(model: PreTrainedModel, name: str, revision: str | None = None) -> None:
    """Remember the name by which others load a base model, unless it is known already."""
    if not hasattr(model, _BASE):
        setattr(model, _BASE, (name, revision))


def base_named(model: PreTrainedModel) -> tuple[str, str | None]:
    """The name by which others load a base model, as `note_base` has it or its own, and its revision."""
    noted, revision = getattr(model, _BASE, (None, None))
    return noted or model.config._name_or_path, revision


def transposed(model: PreTrainedModel) -> bool:
    """Whether a model keeps its weights as (in, out), as GPT-2 does."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def target_names(model: PreTrainedModel, layers: Sequence[str]) -> list[str]:
    """What peft is to call these layers of a model so that it finds exactly them, sorted.

    Layers go by their last part (`q_proj`), as is usual, unless something else of the model is called that too: other
    blocks, a vision tower. Those go by their full names. May be asked while the model carries adapters.
    """
    chosen = set(layers)
    names = {name.removesuffix(".base_layer") for name, _ in model.named_modules() if ".lora_" not in name}
    others = {name.rpartition(".")[2] for name in names - chosen}
    return sorted({layer if (last := layer.rpartition(".")[2]) in others else last for layer in layers})


def save_lora(lora: LoRA, folder: str | Path, *, model: PreTrainedModel, lasting: bool = True) -> None:
    """Write a LoRA with one rank in all layers as a PEFT folder.

    Args:
        lora: The LoRA to write.
        folder: Created if missing. Each file is written whole or not at all; `saving.whole` does the same for the pair.
        model: The model that it is for; the configuration names it as `note_base` did, or by its own name.
        lasting: Whether to wait until the disk has it, as for everything that is to outlive a power failure.

    Raises:
        SavingError: The folder cannot be written.
    """
    name, revision = base_named(model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # peft computes alpha / r, floats are fine
        lora_dropout=0.0,
        fan_in_fan_out=transposed(model),
        task_type="CAUSAL_LM",
        base_model_name_or_path=name,
        revision=revision,
        inference_mode=True,
    )
    named = target_names(model, lora.layers)
    config.target_modules = named  # type: ignore[assignment]  # peft's own set has no fixed order on disk
    with whole_files(folder, lasting=lasting) as aside:
        config.save_pretrained(str(aside))
        write_tensors(lora.state, aside / WEIGHTS, metadata={"format": "pt"})


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
    writer = model
    if is_quantised(model):  # one of its architecture without weights writes the configuration
        config = copy.deepcopy(model.config)
        vars(config).pop("quantization_config")
        with torch.device("meta"):
            writer = type(model)(config)
        writer.generation_config = model.generation_config
    save_model(writer, folder, state=state)
