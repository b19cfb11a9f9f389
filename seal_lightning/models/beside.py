"""Updates of frozen layers: added to weights that can hold them, or else acting beside the layer.

Weights that are quantised or in half precision would round most of an update away (`docs/models.md` has figures), and a
weight that several layers share cannot hold an update of one of them. In such layers it stays a pair of small matrices
whose product is added to the layer's output. Both ways give the same model. The policy's finished rounds and the
adapter of a PEFT folder go through here.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_bnb_weight, dequantize_module_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ModelError
from seal_lightning.models.partitioned import whole

_PLACE = "_beside"  # on a layer
_SHARED = "_shares_its_weight"  # on a layer
PLAIN: tuple[type, ...] = (nn.Parameter,)  # classes of weights that torch's own products take


class Beside:
    """Low-rank updates that act beside one layer, in the type of its output; its weights stay as they are.

    Attributes:
        parts: A (r, in) and B (out, r) of each update in float32, the scale in B.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._factors: tuple[torch.Tensor, torch.Tensor] | None = None  # A and B of all parts, as they are used
        layer.register_forward_hook(self._add, prepend=True)  # before those of an adapter bank

    def append(self, lora_A: torch.Tensor, lora_B: torch.Tensor) -> None:
        self.parts.append((lora_A.float(), lora_B.float()))
        self._factors = None

    def keep(self, count: int) -> None:
        """Take back all updates but the first `count`."""
        del self.parts[count:]
        self._factors = None

    def _stacked(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        lora_A = torch.cat([part for part, _ in self.parts])
        lora_B = torch.cat([part for _, part in self.parts], dim=1)
        return lora_A.to(device, dtype), lora_B.to(device, dtype)

    def delta(self) -> torch.Tensor:
        """The sum of the updates as a matrix (out, in), in float32."""
        lora_A, lora_B = self._stacked(self.parts[0][0].device, torch.float32)
        return lora_B @ lora_A

    def _add(self, layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if not self.parts:
            return output
        x = args[0]  # (..., in)
        if self._factors is None or (self._factors[0].device, self._factors[0].dtype) != (output.device, output.dtype):
            self._factors = self._stacked(output.device, output.dtype)
        lora_A, lora_B = self._factors
        with torch.autocast(x.device.type, enabled=False):
            narrow = x.to(output.dtype).flatten(0, -2) @ lora_A.T
            return torch.addmm(output.flatten(0, -2), narrow, lora_B.T).view(output.shape)  # rounded once


def beside(layer: nn.Module) -> Beside:
    """What acts beside this layer."""
    if not hasattr(layer, _PLACE):
        setattr(layer, _PLACE, Beside(layer))
    return getattr(layer, _PLACE)


def base_layer(module: nn.Module) -> nn.Module:
    """The layer itself where a peft adapter is around it."""
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def layer_at_work(module: nn.Module) -> nn.Module:
    """What computes the output of a layer: the layer below, where a peft adapter is around it that is switched off."""
    idle = isinstance(module, LoraLayer) and module.disable_adapters and not module.merged
    return base_layer(module) if idle else module


def note_shared(model: nn.Module) -> None:
    """Mark layers whose weight is that of others too, as in blocks of hybrids, or of a head and its embedding."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(module)
    for layers in owners.values():
        for layer in layers if len(layers) > 1 else []:
            setattr(layer, _SHARED, True)


def check_own(name: str, layer: nn.Module, *, updated: bool) -> None:
    """Raises `ModelError` if a layer is updated and shares its weight with others, which no file can express."""
    if hasattr(layer, _SHARED) and (updated or acts_beside(layer)):
        raise ModelError(
            f"{name} shares its weight with other layers, which have another update or none: expected layers with "
            "weights of their own in a whole model; write adapters instead"
        )


def has_hooks(layer: nn.Module) -> bool:
    """Whether anything else than updates beside a layer changes or watches what comes out of it."""
    return any(not isinstance(getattr(hook, "__self__", None), Beside) for hook in layer._forward_hooks.values())


def acts_beside(layer: nn.Module) -> bool:
    """Whether a layer's product is not all of its output."""
    parts: Beside | None = getattr(layer, _PLACE, None)
    return parts is not None and bool(parts.parts)


def holds_updates(layer: nn.Module) -> bool:
    """Whether an update may be added to a layer's weight: torch's own product, with an exact weight of its own."""
    weight: Any = layer.weight
    plain = is_torchs_product(layer) and is_plain_weight(weight)
    return plain and weight.element_size() >= 4 and not hasattr(layer, _SHARED)


def is_torchs_product(layer: nn.Module) -> bool:
    """Whether a layer multiplies as torch's own linear layers do, whatever its class adds beside."""
    return type(layer).forward in (nn.Linear.forward, Conv1D.forward)


def is_plain_weight(weight: object) -> bool:
    """Floating-point numbers of 16 bits or more, in no tensor class of a quantisation library."""
    return type(weight) in PLAIN and weight.is_floating_point() and weight.element_size() >= 2  # type: ignore[attr-defined]


@torch.no_grad()
def add_update(module: nn.Module, lora_A: torch.Tensor, lora_B: torch.Tensor, *, scale: float) -> None:
    """Make a layer act as if `scale` times the product B A, (out, in), had been added to its weight."""
    layer = base_layer(module)
    if not holds_updates(layer):
        beside(layer).append(lora_A, scale * lora_B.float())
        return
    delta = lora_B.float() @ lora_A.float() * scale
    weight: Any = layer.weight
    with whole([weight], write=True):
        weight += (delta.T if isinstance(layer, Conv1D) else delta).to(weight.device, weight.dtype)


def is_quantised(model: nn.Module) -> bool:
    """Whether weights of some linear layers are packed."""
    return any(isinstance(layer, nn.Linear) and not is_plain_weight(layer.weight) for layer in model.modules())


def whole_weight(layer: nn.Module, delta: torch.Tensor | None = None) -> torch.Tensor:
    """A layer's weight with the updates beside it and one more, (out, in); dequantised where it is packed.

    Raises:
        ModelError: The meaning of its numbers is unknown, or its product is made of more than them.
    """
    weight: Any = layer.weight
    parts = beside(layer).delta() if acts_beside(layer) else None
    updates = [part for part in (delta, parts) if part is not None]
    if not is_plain_weight(weight) or (updates and not is_torchs_product(layer)):
        if type(weight).__name__ in ("Params4bit", "Int8Params"):  # peft's function for modules would move the state
            weight = dequantize_bnb_weight(weight, state=getattr(layer, "state", None))
        else:
            weight = None if is_plain_weight(weight) else dequantize_module_weight(layer)
        if weight is None or not weight.is_floating_point() or weight.shape != (layer.out_features, layer.in_features):
            raise ModelError(
                f"weights of {type(layer).__name__} cannot be written as a whole model's: expected plain ones or those "
                "of bitsandbytes; write adapters instead"
            )
    exact = weight.float() if updates and weight.element_size() < 4 else weight
    for update in updates:
        update = update.T if isinstance(layer, Conv1D) else update
        exact = exact + update.to(exact.device, exact.dtype)
    return exact.to(weight.dtype)
