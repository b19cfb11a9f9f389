"""The products of each adapter's tokens with its own matrices, by how the tokens lie.

In training, tokens lie in groups of equally long sequences, one adapter's each: every group is a batched product on
views of the tokens. Elsewhere (rows of answers, a layer that sees some tokens only) they are taken in the order of
their adapters. Where torch has a grouped matrix product for the adapters (float32 on a CPU, bfloat16 on newer GPUs), it
takes slices of any lengths at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Matrices:
    """The matrices of one layer for all slots: A (N, r, inputs), B (N, r, outputs), and the buffers of their gradients.

    `rest_of_A` is what rounding took from A. It counts in the product with the input: with a rounded A alone, adapters
    end a tenth further from those of a float32 run. What rounding takes from B, and from A in the backward pass, does
    not show (tests/cuda/test_bank.py).

    The gradients are added to these in the backward pass, so that the flat layout that the optimizer wants costs no
    copy; autograd sees the gradient of the input alone.
    """

    A: torch.Tensor
    B: torch.Tensor
    grad_A: torch.Tensor | None
    grad_B: torch.Tensor | None
    rest_of_A: torch.Tensor | None = None

    @property
    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of the gradients of A and B, which a bank has that trains."""
        assert self.grad_A is not None and self.grad_B is not None, "a bank that only answers has no gradients"
        return self.grad_A, self.grad_B


class TokenIndex(ABC):
    """How M flat tokens are shared out to adapters, and what the adapters of one layer do with them."""

    @abstractmethod
    def add_output(self, out: torch.Tensor, x: torch.Tensor, matrices: Matrices) -> list[torch.Tensor]:
        """Add the adapters' output to `out` (M, outputs), for tokens x (M, inputs).

        Returns:
            The narrow products with A, which the backward pass needs.
        """

    @abstractmethod
    def add_gradients(
        self,
        into: torch.Tensor | None,
        grad: torch.Tensor,
        x: torch.Tensor,
        narrow: Sequence[torch.Tensor],
        matrices: Matrices,
    ) -> None:
        """Add the gradients of A and B to their buffers, and that of the input to `into` (M, inputs).

        Args:
            into: None where the input needs no gradient.
            grad: Gradient of the output, (M, outputs).
            x: The input, (M, inputs).
            narrow: What `add_output` returned.
            matrices: The layer's matrices.
        """


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of some blocks of tokens, one a block.

    Attributes:
        where: Slot of each block, (n,); a slice where they are neighbours, which saves a copy of their matrices.
        turns: Blocks of different slots: their numbers, and their slots. Adding up one turn after the other is exact
            and always in the same order.
    """

    where: torch.Tensor | slice
    turns: tuple[tuple[torch.Tensor | slice, torch.Tensor | slice], ...]

    def of(self, stack: torch.Tensor) -> torch.Tensor:
        """The matrices (n, ...) of the blocks, from those of all slots (N, ...)."""
        return stack[self.where] if isinstance(self.where, slice) else stack.index_select(0, self.where)

    def add(self, buffer: torch.Tensor, values: torch.Tensor, *, scale: float = 1.0) -> None:
        """Add values (n, ...) of the blocks, times the scale, to the buffer of all slots (N, ...)."""
        values = values.to(buffer.dtype)
        for blocks, slots in self.turns:
            some = values if isinstance(blocks, slice) and blocks == slice(0, len(values)) else values[blocks]
            if isinstance(slots, slice):
                buffer[slots].add_(some, alpha=scale)
            else:
                buffer.index_add_(0, slots, some, alpha=scale)


@dataclass(frozen=True, slots=True)
class Blocks(TokenIndex):
    """Tokens in groups of equally long blocks, end to end; each block belongs to one slot.

    Attributes:
        shapes: The number of blocks n of each group, and their length L.
        slots: The slots of each group's blocks.
        scales: alpha / rank of each group's blocks, (n, 1, 1); one number where it is the same for all groups.
    """

    shapes: Sequence[tuple[int, int]]
    slots: Sequence[Slots]
    scales: Sequence[torch.Tensor] | float

    def _parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """(M, f) -> views (n, L, f)."""
        parts = flat.split([count * length for count, length in self.shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, self.shapes, strict=True)]

    def _scaled(self, narrow: list[torch.Tensor]) -> float:
        """Scale the narrow products where blocks differ in it; returns the scale that is left to multiply with."""
        if isinstance(self.scales, float | int):
            return self.scales
        for part, scale in zip(narrow, self.scales, strict=True):
            part.mul_(scale)
        return 1.0

    def add_output(self, out: torch.Tensor, x: torch.Tensor, matrices: Matrices) -> list[torch.Tensor]:
        taken = self._parts(x.to(matrices.A.dtype))
        narrow = self._narrow(taken, matrices.A)
        if matrices.rest_of_A is not None:
            for product, part, slots in zip(narrow, taken, self.slots, strict=True):
                product.baddbmm_(part, slots.of(matrices.rest_of_A).transpose(1, 2))
        scale = self._scaled(narrow)
        self._add_products(out, narrow, matrices.B, scale)
        return narrow

    def _narrow(self, wide: Sequence[torch.Tensor], stack: torch.Tensor) -> list[torch.Tensor]:
        """(n, L, f) of each group times the transposed (N, r, f)."""
        return [torch.bmm(part, slots.of(stack).transpose(1, 2)) for part, slots in zip(wide, self.slots, strict=True)]

    def _add_products(self, out: torch.Tensor, narrow: list[torch.Tensor], stack: torch.Tensor, scale: float) -> None:
        for part, wide, slots in zip(narrow, self._parts(out), self.slots, strict=True):
            if wide.dtype == part.dtype:
                wide.baddbmm_(part, slots.of(stack), alpha=scale)
            else:
                wide.add_(torch.bmm(part, slots.of(stack)), alpha=scale)

    def add_gradients(
        self,
        into: torch.Tensor | None,
        grad: torch.Tensor,
        x: torch.Tensor,
        narrow: Sequence[torch.Tensor],
        matrices: Matrices,
    ) -> None:
        grad_A, grad_B = matrices.gradients
        wide, taken = self._parts(grad.to(matrices.B.dtype)), self._parts(x.to(matrices.A.dtype))
        grads = self._narrow(wide, matrices.B)
        scale = self._scaled(grads)
        for slots, part, grad_part, given, grad_given in zip(self.slots, taken, grads, narrow, wide, strict=True):
            slots.add(grad_A, torch.bmm(grad_part.transpose(1, 2), part), scale=scale)
            slots.add(grad_B, torch.bmm(given.transpose(1, 2), grad_given), scale=scale)
        if into is not None:
            self._add_products(into, grads, matrices.A, scale)


@dataclass(frozen=True, slots=True)
class Slices(TokenIndex):
    """Tokens by slot, in slices of any lengths, for torch's grouped matrix product.

    Attributes:
        slots: The slots of the slices.
        ends: Where each slice ends, (n,), int32.
        order: The m tokens that have an adapter, by slice; None if that is all tokens as they are.
        scales: alpha / rank of each of those tokens, (m, 1), or of all.
    """

    slots: Slots
    ends: torch.Tensor
    order: torch.Tensor | None
    scales: torch.Tensor | float

    def _take(self, flat: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The tokens by slice, in rows: CUDA's product refuses views of another order, and expanded gradients."""
        return (flat if self.order is None else flat.index_select(0, self.order)).to(dtype).contiguous()

    def _product(self, x: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(x, self.slots.of(stack), offs=self.ends)

    def _add(self, out: torch.Tensor, values: torch.Tensor) -> None:
        if self.order is None:
            out.add_(values)
        else:
            out.index_add_(0, self.order, values.to(out.dtype))  # each token once: exact

    def add_output(self, out: torch.Tensor, x: torch.Tensor, matrices: Matrices) -> list[torch.Tensor]:
        taken = self._take(x, matrices.A.dtype)
        narrow = self._product(taken, matrices.A.transpose(1, 2))
        if matrices.rest_of_A is not None:
            narrow.add_(self._product(taken, matrices.rest_of_A.transpose(1, 2)))
        narrow.mul_(self.scales)
        self._add(out, self._product(narrow, matrices.B))
        return [narrow]

    def add_gradients(
        self,
        into: torch.Tensor | None,
        grad: torch.Tensor,
        x: torch.Tensor,
        narrow: Sequence[torch.Tensor],
        matrices: Matrices,
    ) -> None:
        grad_A, grad_B = matrices.gradients
        wide, taken = self._take(grad, matrices.B.dtype), self._take(x, matrices.A.dtype)
        grad_narrow = self._product(wide, matrices.B.transpose(1, 2)).mul_(self.scales)
        self.slots.add(grad_A, functional.grouped_mm(grad_narrow.t(), taken, offs=self.ends))
        self.slots.add(grad_B, functional.grouped_mm(narrow[0].t(), wide, offs=self.ends))
        if into is not None:
            self._add(into, self._product(grad_narrow, matrices.A))


@dataclass(frozen=True, slots=True)
class Padded(TokenIndex):
    """Tokens in any order, gathered into padded blocks.

    Attributes:
        blocks: The blocks, P tokens with their padding.
        order: The m tokens that have an adapter, by block.
        places: Where each of them lies among the P.
    """

    blocks: Blocks
    order: torch.Tensor
    places: torch.Tensor

    def _take(self, flat: torch.Tensor) -> torch.Tensor:
        size = sum(count * length for count, length in self.blocks.shapes)
        return flat.new_zeros(size, flat.shape[1]).index_copy_(0, self.places, flat.index_select(0, self.order))

    def _add(self, out: torch.Tensor, padded: torch.Tensor) -> None:
        out.index_add_(0, self.order, padded.index_select(0, self.places))  # each token once: exact

    def add_output(self, out: torch.Tensor, x: torch.Tensor, matrices: Matrices) -> list[torch.Tensor]:
        taken = self._take(x)
        padded = out.new_zeros(len(taken), out.shape[1])
        narrow = self.blocks.add_output(padded, taken, matrices)
        self._add(out, padded)
        return narrow

    def add_gradients(
        self,
        into: torch.Tensor | None,
        grad: torch.Tensor,
        x: torch.Tensor,
        narrow: Sequence[torch.Tensor],
        matrices: Matrices,
    ) -> None:
        taken = self._take(x)
        padded = None if into is None else torch.zeros_like(taken)
        self.blocks.add_gradients(padded, self._take(grad), taken, narrow, matrices)
        if into is not None and padded is not None:
            self._add(into, padded.to(into.dtype))
