"""The adapter bank: N LoRAs, stacked, trained and used together on one frozen model.

This is SEAL's inner loop made cheap: the frozen layers run once over the tokens of all adapters, and only the small
products with A and B tell them apart. Each adapter has its own AdamW state, learning rate, step count and clipping, so
training N together equals training each alone. A plain linear layer and its adapters are one step of autograd; other
layers get theirs by a forward hook. Nothing is changed in the model: if a layer already carries a peft adapter (the
policy's), that is frozen too. The bank leaves out dropout (the paper uses none) and biases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.layouts import Matrices, TokenIndex
from seal_lightning.inner_loop.packing import LengthGroup
from seal_lightning.inner_loop.routing import Routing, Shelf, has_grouped
from seal_lightning.models.beside import base_layer, has_hooks, is_torchs_product, layer_at_work
from seal_lightning.models.layers import Target, find_targets, parameters_of
from seal_lightning.models.lora import LoRA
from seal_lightning.models.products import (
    FrozenLinear,
    is_plain,
    linear,
    linear_backward,
    multiplies_bfloat16,
    quick_products,
    replaced_forward,
)

_ALIGNED = 16  # bytes: grouped products want rows of a multiple of it, so ranks are rounded up


@dataclass(frozen=True, slots=True)
class SlotState:
    """One adapter on its way out of a slot and back: its row of parameters, its rank, and AdamW's state."""

    parameters: torch.Tensor
    rank: int
    optimizer: dict[str, torch.Tensor]


class AdapterBank:
    """`slots` LoRAs on one model.

    Args:
        model: Frozen causal language model in evaluation mode.
        slots: Number of adapters, N.
        rank: Largest rank of an adapter, r; a slot may have a smaller one (see `reset`).
        alpha: Their output is multiplied by alpha / rank.
        target_modules: See `find_targets`.
        betas: Decay rates of AdamW's moments.
        weight_decay: Decoupled weight decay of AdamW.
        trainable: Whether there are gradients and optimizer states; a bank that only answers needs none.
        dtype: Precision in which adapters are kept; those that are trained have to be kept in float32.

    Attributes:
        precision: Precision of the products with A and B: bfloat16 if the model has it and the device multiplies it
            faster, else float32.
        A: By layer name, (N, r, inputs), r rounded up to `width`; as peft's `lora_A.weight`.
        B: By layer name, (N, r, outputs), peft's `lora_B.weight` transposed: products along the long side are fast.
            Both are leaves: views of `parameters`, with `.grad` a view of `gradients`.
        ranks: Rank of the adapter in each slot.
        width: The rank of the matrices: a multiple of 4, or of 8 for products in bfloat16.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        rank: int,
        alpha: float,
        target_modules: str | Sequence[str] | None = "default",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        trainable: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        assert dtype == torch.float32 or not trainable, "what is trained is kept in float32"
        self.model = model
        self.targets = find_targets(model, target_modules)
        self.rank, self.alpha = rank, alpha
        self.ranks = [rank] * slots
        self.device = next(model.parameters()).device
        # One flat buffer for the parameters of all layers and one for their gradients: clipping and the optimizer then
        # walk over one row a slot, whatever the number of layers.
        half = multiplies_bfloat16(self.device) and next(model.parameters()).dtype == torch.bfloat16
        self.precision = torch.bfloat16 if half else torch.float32
        multiple = _ALIGNED // self.precision.itemsize
        self.width = -(-rank // multiple) * multiple  # the rest stays zero, see `reset`
        self.parameters = torch.zeros(slots, parameters_of(self.targets, self.width), device=self.device, dtype=dtype)
        self.gradients = torch.zeros_like(self.parameters) if trainable else None
        self._rounded = self._rest = None  # the parameters in that precision, and what rounding takes from them
        if dtype != self.precision:
            self._rounded = torch.empty_like(self.parameters, dtype=self.precision)
        if dtype.itemsize > self.precision.itemsize:
            self._rest = torch.empty_like(self.parameters, dtype=self.precision)
        self.A: dict[str, torch.Tensor] = {}
        self.B: dict[str, torch.Tensor] = {}
        self._matrices: dict[str, Matrices] = {}
        self._cut_views()
        self.scales = [alpha / rank] * slots
        widths = [self.width, *(width for target in self.targets for width in (target.inputs, target.outputs))]
        self._layouts = Shelf(self.scales, self.device, has_grouped(self.device, self.precision, widths))
        self._routing: Routing | None = None
        self._rows = [nn.Parameter(row) for row in self.parameters] if trainable else []
        groups: list[dict[str, Any]] = [{"params": [row]} for row in self._rows] or [{"params": []}]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)

    def _cut_views(self) -> None:
        at = 0
        for target in self.targets:
            middle, end = at + target.inputs * self.width, at + (target.inputs + target.outputs) * self.width
            shapes = ((self.width, target.inputs), (self.width, target.outputs))
            spans = (slice(at, middle), slice(middle, end))
            used: list[torch.Tensor] = []
            for table, shape, span in zip((self.A, self.B), shapes, spans, strict=True):
                leaf = self.parameters[:, span].unflatten(1, shape).detach().requires_grad_()
                if self.gradients is not None:
                    leaf.grad = self.gradients[:, span].unflatten(1, shape)
                table[target.name] = leaf
                used.append(leaf if self._rounded is None else self._rounded[:, span].unflatten(1, shape))
            grads = self.A[target.name].grad, self.B[target.name].grad
            rest = None if self._rest is None else self._rest[:, spans[0]].unflatten(1, shapes[0])
            self._matrices[target.name] = Matrices(used[0].detach(), used[1].detach(), *grads, rest)
            at = end

    # -- slots -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(self, slot: int, *, seed: int, rank: int | None = None, layers: Collection[str] | None = None) -> None:
        """Make `slot` a new adapter as peft does: A uniform in ±1/√inputs, B zero; no optimizer state.

        An adapter of a smaller `rank` than the bank's has zeros in the rest of A and B, and one of some `layers` in
        all others, drawn as in a bank without those. They stay zero: the gradient of each is a product with the other.
        """
        rank = self.rank if rank is None else rank
        if not 1 <= rank <= self.rank:
            raise ConfigError(f"rank of an adapter must be between 1 and the bank's {self.rank}, got {rank}")
        generator = torch.Generator().manual_seed(seed)
        self.parameters[slot].zero_()
        self._forget(slot)
        for target in self.targets:
            if layers is None or target.name in layers:
                bound = target.inputs**-0.5
                drawn = torch.empty(rank, target.inputs).uniform_(-bound, bound, generator=generator)
                self.A[target.name][slot, :rank].copy_(drawn)
        self._set_rank(slot, rank)

    def _forget(self, slot: int) -> None:
        if self.gradients is not None:
            self.gradients[slot].zero_()
            self._optimizer.state.pop(self._rows[slot], None)

    def _set_rank(self, slot: int, rank: int) -> None:
        self.ranks[slot] = rank
        self.scales[slot] = self.alpha / rank

    @torch.no_grad()
    def fill(self, slot: int, parameters: torch.Tensor, *, rank: int) -> None:
        """Put trained parameters, a row of another bank, into `slot`; without optimizer state."""
        self.parameters[slot].copy_(parameters)
        self._forget(slot)
        self._set_rank(slot, rank)

    @torch.no_grad()
    def move(self, source: int, target: int) -> None:
        """Put the adapter of slot `source` with its optimizer state into `target`; `source` is then free."""
        self.fill(target, self.parameters[source], rank=self.ranks[source])
        if (state := self._optimizer.state.pop(self._rows[source], None)) is not None:
            self._optimizer.state[self._rows[target]] = state

    @torch.no_grad()
    def take(self, slot: int) -> SlotState:
        """A copy of a slot's adapter with its optimizer state, on the CPU."""
        return self._state(slot, self._optimizer.state.get(self._rows[slot], {}), copy=True)

    def _state(self, slot: int, optimizer: dict[str, torch.Tensor], *, copy: bool) -> SlotState:
        moved = {name: value.to("cpu", copy=copy) for name, value in optimizer.items()}
        return SlotState(self.parameters[slot].to("cpu", copy=True), self.ranks[slot], moved)

    @torch.no_grad()
    def put(self, slot: int, state: SlotState) -> None:
        """The reverse of `take`, into any slot of a bank of the same shape."""
        self.fill(slot, state.parameters, rank=state.rank)
        if state.optimizer:
            moved = {name: value.to(self.device, copy=True) for name, value in state.optimizer.items()}
            self._optimizer.state[self._rows[slot]] = moved

    @torch.no_grad()
    def dissolve(self, slots: int) -> list[SlotState]:
        """The adapters of the first slots with their optimizer states, on the CPU; the bank cannot be used any more.

        Gradients are freed first, which makes room for the copies.
        """
        self.gradients = self._rounded = self._rest = None
        self._matrices.clear()
        for leaf in (*self.A.values(), *self.B.values(), *self._rows):
            leaf.grad = None
        states = self._optimizer.state
        return [self._state(slot, states.pop(self._rows[slot], {}), copy=False) for slot in range(slots)]

    def clear_gradients(self) -> None:
        """Forget what an interrupted backward pass has gathered."""
        assert self.gradients is not None, "a bank that only answers has no gradients"
        self.gradients.zero_()

    # -- forward ---------------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the adapters into their layers; they act only under a `routing`."""
        plain: dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]] = {}
        others: list[Target] = []
        for target in self.targets:
            layer = layer_at_work(target.module)
            if is_plain(layer) and not (has_hooks(layer) or has_hooks(target.module)):
                plain[layer] = self._forward(layer, target.name)
            else:
                others.append(target)
        handles = [target.module.register_forward_hook(self._hook(target)) for target in others]
        try:
            with replaced_forward(plain), quick_products(self.model):  # the latter for layers without adapters
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def routing(self, slots: torch.Tensor | Sequence[LengthGroup]) -> Iterator[None]:
        """Set the slot of each row (B,) or token (B, T), -1 for no adapter; or those of a training batch's groups."""
        self.route(slots)
        try:
            yield
        finally:
            self._routing = None

    def route(self, slots: torch.Tensor | Sequence[LengthGroup]) -> None:
        """Change the slots within a `routing`, after rows have left the batch."""
        if self._routing is None and self._rounded is not None:
            self._rounded.copy_(self.parameters)
            if self._rest is not None:
                torch.sub(self.parameters, self._rounded, out=self._rest)
        self._routing = Routing(slots, self._layouts)

    def _layout(self, x: torch.Tensor) -> TokenIndex | None:
        """The layout of a layer's input (..., inputs); None where no adapter acts on it."""
        if self._routing is None or self._routing.nothing or not x.numel():  # an expert may get no token
            return None
        return self._routing.index(x.shape[:-1])

    def _forward(self, layer: nn.Module, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        assert isinstance(layer, nn.Linear)

        def adapted(input: torch.Tensor) -> torch.Tensor:  # named as nn.Linear names it
            if (index := self._layout(input)) is None:
                return FrozenLinear.apply(input, layer.weight, layer.bias)  # type: ignore[return-value]
            return AdaptedLinear.apply(input, layer.weight, layer.bias, self.A[name], self._matrices[name], index)  # type: ignore[return-value]

        return adapted

    def _hook(self, target: Target) -> Callable[..., torch.Tensor]:
        name = target.name
        frozen = base_layer(target.module)
        # torch's own product is a fresh tensor that its backward pass does not need; quantised layers return views
        own = not any(has_hooks(layer) or "forward" in vars(layer) for layer in (target.module, frozen))
        in_place = own and is_torchs_product(frozen)

        def add_adapters(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x = args[0]  # (B, T, inputs), or flat: (B * T, inputs)
            if (index := self._layout(x)) is None:
                return output
            delta: torch.Tensor = StackedLoRA.apply(x.flatten(0, -2), self.A[name], self._matrices[name], index)  # type: ignore[assignment]
            delta = delta.view(*x.shape[:-1], -1)
            # in place on a view, autograd would copy the whole output, forward and backward
            return output.add_(delta) if in_place and not output._is_view() else (output + delta).to(output.dtype)

        return add_adapters

    # -- optimizer -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, n: int) -> None:
        """Create the optimizer state of the first n slots, so that a step never runs out of memory half way."""
        for row in self._rows[:n]:
            if row not in self._optimizer.state:
                step = torch.zeros((), dtype=torch.float32, device=self.device)
                moments = {name: torch.zeros_like(row) for name in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[row] = {"step": step, **moments}

    def gradient_norms(self, n: int) -> torch.Tensor:
        """Norms of the gradients gathered so far in the first n slots, (n,); one that overflows is infinite."""
        assert self.gradients is not None, "a bank that only answers has no gradients"
        return torch.linalg.vector_norm(self.gradients[:n], dim=1)

    @torch.no_grad()
    def step(
        self,
        learning_rates: Sequence[float],
        *,
        max_norm: float | None,
        norms: torch.Tensor | None = None,
        sound: torch.Tensor | None = None,
    ) -> None:
        """One AdamW step (torch's fused one) of the first n slots from the gradients gathered so far, which are zeroed.

        Args:
            learning_rates: n numbers.
            max_norm: Each adapter's gradient is scaled down to this norm (torch's `clip_grad_norm_`); None leaves it.
            norms: The `gradient_norms`, where they are known already.
            sound: Whether to step at all, a bool () on the device; if it is off, only the gradients are zeroed.
        """
        assert self.gradients is not None, "a bank that only answers has no gradients"
        n = len(learning_rates)
        grads = self.gradients[:n]
        if max_norm:
            norms = (self.gradient_norms(n) if norms is None else norms)[:, None]
            if self.device.type != "cpu" or bool((norms > max_norm).any()):
                grads.mul_((max_norm / (norms + 1e-6)).clamp_(max=1.0))
        for slot, row in enumerate(self._rows):
            row.grad = self.gradients[slot] if slot < n else None
        for group, rate in zip(self._optimizer.param_groups, learning_rates, strict=False):
            group["lr"] = rate
        self._optimizer.found_inf = None if sound is None else (~sound).float()  # type: ignore[attr-defined]
        self._optimizer.step()
        grads.zero_()


def bank_lora(bank: AdapterBank, slot: int) -> LoRA:
    """One adapter by peft's parameter names, on the CPU, with its scale; without padding and untrained layers."""
    rank = bank.ranks[slot]
    state: dict[str, torch.Tensor] = {}
    for target in [target for target in bank.targets if bank.A[target.name][slot].any()] or bank.targets:
        matrices = (bank.A[target.name][slot, :rank], bank.B[target.name][slot, :rank].T)
        for part, matrix in zip("AB", matrices, strict=True):
            state[f"base_model.model.{target.name}.lora_{part}.weight"] = matrix.detach().contiguous().cpu()
    return LoRA(state, bank.alpha / rank)


class AdaptedLinear(torch.autograd.Function):
    """A frozen linear layer with its adapters in one step: x (..., inputs) -> (..., outputs).

    The input is saved as it came, so a bfloat16 model pays for no float32 copies.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        leaf: torch.Tensor,
        matrices: Matrices,
        index: TokenIndex,
    ) -> torch.Tensor:
        out = linear(x, weight, bias)
        flat = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):  # adapters stay in their own precision
            narrow = index.add_output(out.flatten(0, -2), flat, matrices)
        ctx.save_for_backward(flat, weight, *narrow)
        ctx.matrices, ctx.index = matrices, index
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight, *narrow = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        into = linear_backward(flat, weight) if ctx.needs_input_grad[0] else None
        ctx.index.add_gradients(into, flat, x, narrow, ctx.matrices)
        return (None if into is None else into.to(x.dtype).view(*grad.shape[:-1], -1), *[None] * 5)


class StackedLoRA(torch.autograd.Function):
    """The output (M, outputs) of the adapters alone, for flat tokens (M, inputs): for layers that are not plain."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, leaf: torch.Tensor, matrices: Matrices, index: TokenIndex) -> torch.Tensor:
        out = matrices.B.new_zeros(len(x), matrices.B.shape[2])
        with torch.autocast(x.device.type, enabled=False):  # adapters stay in their own precision
            narrow = index.add_output(out, x, matrices)
        ctx.save_for_backward(x, *narrow)
        ctx.matrices, ctx.index = matrices, index
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, *narrow = ctx.saved_tensors
        into = ctx.matrices.A.new_zeros(x.shape) if ctx.needs_input_grad[0] else None
        ctx.index.add_gradients(into, grad, x, narrow, ctx.matrices)
        return None if into is None else into.to(x.dtype), None, None, None
