"""Products with frozen weights, through the fastest library that torch has for them.

torch's float32 products on a CPU go through MKL, which on AMD's processors takes its code for AVX2, while oneDNN, which
torch carries too, uses AVX-512 where it is there: 2.3 times the rate on an EPYC (Zen 5), with the same error. torch has
it for float32 as an operator without a gradient, which is why only frozen weights profit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional

from seal_lightning.models.beside import is_plain_weight

_LEAST = 1 << 21  # multiplications that are worth the call


@cache
def _has_onednn() -> bool:
    """Whether oneDNN's product of dense float32 matrices is there, and equal to torch's own."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    x, weight = torch.linspace(-1, 1, 96 * 64).view(96, 64), torch.linspace(-1, 1, 64 * 64).view(64, 64).sin()
    try:
        mine = _onednn(x, weight, None)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(mine, functional.linear(x, weight), rtol=1e-5, atol=1e-5)


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _suits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.numel() >= _LEAST * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """torch's `linear`: x (..., in) times the transposed weight (out, in). It has no gradient here."""
    return _onednn(x, weight, bias) if _suits(x, weight) else functional.linear(x, weight, bias)


def linear_backward(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of a linear layer's input (..., in) from that of its output (..., out)."""
    return _onednn(grad, weight.t(), None) if _suits(grad, weight) else grad.to(weight.dtype) @ weight


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16 than in float32 there: on GPUs, and on processors with AMX."""
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)  # torch before 2.12 has none
        return bool(known().get("amx_bf16"))
    return device.type == "cuda"


class FrozenLinear(torch.autograd.Function):
    """A frozen linear layer."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return linear_backward(grad, weight).to(ctx.dtype), None, None


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is torch's own linear one, frozen and not packed, and nothing has replaced its forward pass."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return is_plain_weight(layer.weight) and not layer.weight.requires_grad


Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def replaced_forward(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Give some layers, which are `is_plain`, another forward pass for a while."""
    try:
        for layer, forward in forwards.items():
            layer.forward = _replaced[layer] = forward  # type: ignore[method-assign]
        yield
    finally:
        for layer in forwards:  # the class's own again, also where it was interrupted above
            vars(layer).pop("forward", None)
            _replaced.pop(layer, None)


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Give every layer its own forward pass back for a while."""
    layers = {layer: _replaced.pop(layer) for layer in model.modules() if layer in _replaced}
    for layer in layers:
        del layer.forward
    try:
        yield  # maybe with others in their place
    finally:
        for layer, forward in layers.items():
            layer.forward = _replaced[layer] = forward  # type: ignore[method-assign]


_replaced: WeakKeyDictionary[nn.Module, Forward] = WeakKeyDictionary()


def quick_products(model: nn.Module) -> AbstractContextManager[None]:
    """Let the model's plain frozen layers take the fastest product, where there is a choice."""
    if next(model.parameters()).device.type != "cpu" or not _has_onednn():
        return nullcontext()
    return replaced_forward({layer: _quick(layer) for layer in model.modules() if is_plain(layer)})


def _quick(layer: nn.Module) -> Forward:
    def forward(input: torch.Tensor) -> torch.Tensor:
        return FrozenLinear.apply(input, layer.weight, layer.bias)  # type: ignore[return-value]

    return forward
