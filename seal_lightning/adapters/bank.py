"""The adapter bank: N LoRAs, stacked, trained and used together on one frozen model.

This is SEAL's inner loop made cheap: the frozen layers run once over the tokens of all adapters, and only the small
products with A and B tell them apart. Each adapter has its own AdamW state, learning rate, step count and clipping, so
training N together equals training each alone. The bank attaches by forward hooks and changes nothing in the model;
where a layer carries a peft adapter already (the policy's), it is part of what is frozen. What the bank leaves out:
dropout (the paper uses none) and biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_DEFAULTS
from torch import nn
from transformers.pytorch_utils import Conv1D

from seal_lightning.adapters.routing import Routing, TokenIndex
from seal_lightning.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted layer: its name in the model, and its sizes."""

    name: str
    module: nn.Module
    inputs: int
    outputs: int

    @property
    def transposed(self) -> bool:
        """Whether the frozen weight is stored as (inputs, outputs), as in GPT-2."""
        return isinstance(_frozen(self.module), Conv1D)


def linear_layers(model: Any) -> list[Target]:
    """Every linear layer (also GPT-2's Conv1D, and layers that carry a peft adapter) except the output embedding."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    targets: list[Target] = []
    inside: tuple[str, ...] = ()  # names below a peft layer are its own parts
    modules: Iterator[tuple[str, nn.Module]] = model.named_modules()
    for name, module in modules:
        if name.startswith(inside):
            continue
        if isinstance(module, LoraLayer):
            inside = (*inside, f"{name}.")
        frozen = _frozen(module)
        if module is head:
            continue
        if isinstance(frozen, nn.Linear):
            targets.append(Target(name, module, frozen.in_features, frozen.out_features))
        elif isinstance(frozen, Conv1D):
            targets.append(Target(name, module, *frozen.weight.shape))
    return targets


def _frozen(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def find_targets(model: Any, wanted: str | Sequence[str] | None) -> list[Target]:
    """The layers to adapt: `all-linear`, `default` or None (peft's choice for the architecture), or names' last parts.

    Raises:
        ConfigError: A name fits no linear layer, or peft has no default for the architecture.
    """
    layers = linear_layers(model)
    if wanted == "all-linear":
        return layers
    kinds = sorted({layer.name.rpartition(".")[2] for layer in layers})
    if wanted is None or wanted == "default":
        if model.config.model_type not in PEFT_DEFAULTS:
            raise ConfigError(
                f"model.inner_loop.target_modules=default: peft has no default for {model.config.model_type}; "
                f"give all-linear or some of {', '.join(kinds)}"
            )
        wanted = list(PEFT_DEFAULTS[model.config.model_type])
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if not any(_fits(layer.name, name) for layer in layers)]
    if unknown:
        raise ConfigError(
            f"model.inner_loop.target_modules: no linear layer is called {', '.join(unknown)}; expected "
            f"all-linear, default or some of {', '.join(kinds)}"
        )
    return [layer for layer in layers if any(_fits(layer.name, name) for name in names)]


def _fits(layer: str, wanted: str) -> bool:
    return layer == wanted or layer.endswith("." + wanted)


class AdapterBank:
    """`slots` LoRAs of one rank on one model.

    Args:
        model: Frozen causal language model in evaluation mode.
        slots: How many adapters, N.
        rank: Of each, r.
        alpha: Their output is multiplied by alpha / rank.
        target_modules: See `find_targets`.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW, decoupled.

    Attributes:
        A: By layer name, (N, inputs, r), float32; peft's `lora_A.weight` transposed.
        B: By layer name, (N, r, outputs). Both are leaves: views of `parameters`, with `.grad` a view of `gradients`.
    """

    def __init__(
        self,
        model: Any,
        *,
        slots: int,
        rank: int,
        alpha: float,
        target_modules: str | Sequence[str] | None = "default",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.model = model
        self.targets = find_targets(model, target_modules)
        self.rank, self.alpha = rank, alpha
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        device = next(model.parameters()).device
        size = sum((target.inputs + target.outputs) * rank for target in self.targets)
        # One flat buffer for the parameters of all layers and one for their gradients: the optimizer is then a few
        # operations on (N, size), whatever the number of layers.
        self.parameters = torch.zeros(slots, size, device=device, dtype=torch.float32)
        self.gradients = torch.zeros_like(self.parameters)
        self._mean = torch.zeros_like(self.parameters)
        self._variance = torch.zeros_like(self.parameters)
        self._steps = torch.zeros(slots, 1, device=device, dtype=torch.float32)
        self.A: dict[str, torch.Tensor] = {}
        self.B: dict[str, torch.Tensor] = {}
        self._cut_views()
        self._routing: Routing | None = None

    def _cut_views(self) -> None:
        at = 0
        for target in self.targets:
            shapes = ((target.inputs, self.rank), (self.rank, target.outputs))
            ends = (at, at + target.inputs * self.rank, at + (target.inputs + target.outputs) * self.rank)
            for table, shape, start, end in zip((self.A, self.B), shapes, ends[:2], ends[1:], strict=True):
                leaf = self.parameters[:, start:end].unflatten(1, shape).detach().requires_grad_()
                leaf.grad = self.gradients[:, start:end].unflatten(1, shape)
                table[target.name] = leaf
            at = ends[2]

    @torch.no_grad()
    def reset(self, slot: int, *, seed: int) -> None:
        """Make `slot` a new adapter as peft does: A uniform in ±1/√inputs, B zero; no optimizer state."""
        generator = torch.Generator().manual_seed(seed)
        for buffer in (self.parameters, self.gradients, self._mean, self._variance, self._steps):
            buffer[slot].zero_()
        for target in self.targets:
            bound = target.inputs**-0.5
            drawn = torch.empty(self.rank, target.inputs).uniform_(-bound, bound, generator=generator)
            self.A[target.name][slot].copy_(drawn.T)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the adapters behind their layers; they act only under a `routing`."""
        handles = [target.module.register_forward_hook(self._hook(target.name)) for target in self.targets]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def routing(self, slots: torch.Tensor) -> Iterator[None]:
        """Say which slot each row (B,) or token (B, T) belongs to; -1 means no adapter."""
        self._routing = Routing(slots)
        try:
            yield
        finally:
            self._routing = None

    def _hook(self, name: str) -> Any:
        def add_adapters(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if self._routing is None or self._routing.nothing:
                return output
            x = args[0]  # (B, T, inputs)
            index = self._routing.index(x.shape[1])
            a, b = self.A[name], self.B[name]
            with torch.autocast(x.device.type, enabled=False):  # adapters stay in float32
                delta = StackedLoRA.apply(x.flatten(0, 1), a, b, (a.grad, b.grad), index, self.alpha / self.rank)
            return output + delta.view(*x.shape[:-1], -1).to(output.dtype)  # type: ignore[union-attr]

        return add_adapters

    @torch.no_grad()
    def step(self, learning_rates: torch.Tensor, *, max_norm: float | None) -> None:
        """One AdamW step of the first n slots from the gradients gathered so far, which are zeroed.

        Args:
            learning_rates: (n,).
            max_norm: Each adapter's gradient is scaled down to this norm (torch's `clip_grad_norm_`); None leaves it.
        """
        n = len(learning_rates)
        grads, rates = self.gradients[:n], learning_rates.to(self.parameters.device)[:, None]
        if max_norm:
            norms = torch.linalg.vector_norm(grads, dim=1, keepdim=True)
            grads.mul_((max_norm / (norms + 1e-6)).clamp_(max=1.0))
        steps = self._steps[:n].add_(1)
        beta1, beta2 = self.betas
        mean, variance, weights = self._mean[:n], self._variance[:n], self.parameters[:n]
        mean.lerp_(grads, 1 - beta1)
        variance.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        if self.weight_decay:
            weights.mul_(1 - rates * self.weight_decay)
        scale = (variance.sqrt() / (1 - beta2**steps).sqrt()).add_(self.eps)
        weights.addcdiv_(mean * (-rates / (1 - beta1**steps)), scale)
        self.gradients.zero_()


class StackedLoRA(torch.autograd.Function):
    """Output (M, out) of the LoRAs for flat tokens (M, in); saves the input itself and the narrow products only.

    The products are made in the dtype of A and B; the input is saved as it came, so a bfloat16 model pays for no
    float32 copies. The gradients of A and B are added to the bank's own buffers in the backward pass, so the flat
    layout that the optimizer wants costs no copy; autograd sees the gradient of the input alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a_A: torch.Tensor,
        b_A: torch.Tensor,
        gradients: tuple[torch.Tensor, torch.Tensor],
        index: TokenIndex,
        scaling: float,
    ) -> torch.Tensor:
        a, b = a_A[index.active], b_A[index.active]
        narrow = torch.bmm(_padded(x, index).to(a.dtype), a)  # (n, L, r)
        ctx.save_for_backward(x, a, b, narrow)
        ctx.gradients, ctx.index, ctx.scaling = gradients, index, scaling
        return _flat(torch.bmm(narrow, b), index).mul_(scaling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        x, a, b, narrow = ctx.saved_tensors
        index, (grad_a, grad_b) = ctx.index, ctx.gradients
        wide = _padded(grad * ctx.scaling, index)  # (n, L, out)
        if index.padding is not None:
            wide.view(-1, wide.shape[-1]).index_fill_(0, index.padding, 0.0)
        grad_narrow = torch.bmm(wide, b.transpose(1, 2))
        rows = _padded(x, index).to(a.dtype)
        _add(grad_a, index, torch.bmm(rows.transpose(1, 2), grad_narrow))
        _add(grad_b, index, torch.bmm(narrow.transpose(1, 2), wide))
        if not ctx.needs_input_grad[0]:
            return (None,) * 6
        grad_x = _flat(torch.bmm(grad_narrow, a.transpose(1, 2)), index).to(x.dtype)
        return grad_x, None, None, None, None, None


def _padded(flat: torch.Tensor, index: TokenIndex) -> torch.Tensor:
    """(M, f) -> (n, L, f)."""
    rows = flat if index.in_order else flat.index_select(0, index.gather)
    return rows.view(index.count, -1, flat.shape[-1])


def _add(buffer: torch.Tensor, index: TokenIndex, values: torch.Tensor) -> None:
    """Add the values (n, ...) of the active slots to the buffer of all slots (N, ...)."""
    if isinstance(index.active, slice):
        buffer[index.active] += values
    else:
        buffer.index_add_(0, index.active, values)  # each slot once: exact


def _flat(padded: torch.Tensor, index: TokenIndex) -> torch.Tensor:
    """(n, L, f) -> (M, f), zero for tokens of no adapter."""
    rows = padded.reshape(-1, padded.shape[-1])
    if index.in_order:
        return rows
    flat = rows.index_select(0, index.back)
    return flat if index.idle is None else flat.index_fill_(0, index.idle, 0.0)
