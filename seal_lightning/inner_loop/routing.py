"""Which token belongs to which adapter, and the products of each adapter's tokens with its own matrices.

Tokens are taken in the order of their adapters. On a CPU torch's grouped matrix product multiplies each adapter's slice
with its matrix, without padding and without a copy where the tokens lie in that order already; on a GPU, where that
product exists for bfloat16 only, the slices are padded to one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional


class RoutingError(RuntimeError):
    """The adapter that a layer's tokens belong to is unknown."""


def grouped(*tensors: torch.Tensor) -> bool:
    """Whether torch has a grouped matrix product for such tensors: float32 on a CPU, rows aligned to 16 bytes."""
    for tensor in tensors:  # asked for every product, so without generators
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return False
        rows, columns = tensor.stride()[-2:]
        if min(rows, columns) != 1 or max(rows, columns) % 4:
            return False
        if tensor.dim() > 2 and tensor.stride(0) % 4:
            return False
    return True


@dataclass(frozen=True)
class TokenIndex:
    """One layout of M flat tokens.

    Attributes:
        active: Slots that have tokens, ascending, (n,); a slice if they follow each other, which saves copies.
        counts: Tokens of each of them, (n,), on the CPU.
        order: The tokens that have an adapter, by slot; None if that is all tokens as they are.
        scales: alpha / rank of each of those tokens, (m, 1), on their device.
        tokens: M.
    """

    active: torch.Tensor | slice
    counts: torch.Tensor
    order: torch.Tensor | None
    scales: torch.Tensor
    tokens: int

    @cached_property
    def ends(self) -> torch.Tensor:
        """Where each slot's tokens end in the order of the slots, (n,)."""
        return self.counts.cumsum(0).to(torch.int32).to(self.scales.device)

    def take(self, flat: torch.Tensor) -> torch.Tensor:
        """(M, f) -> the tokens that have an adapter, by slot."""
        return flat if self.order is None else flat.index_select(0, self.order)

    def put(self, taken: torch.Tensor) -> torch.Tensor:
        """The reverse of `take`; zero for tokens of no adapter."""
        if self.order is None:
            return taken
        return taken.new_zeros(self.tokens, taken.shape[1]).index_copy_(0, self.order, taken)

    def product(self, x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """Each slot's tokens (of x, by slot) times its matrix (n, in, out)."""
        if grouped(x, matrices):
            return functional.grouped_mm(x, matrices, offs=self.ends)
        padded, places = self._padded
        rows = x.index_select(0, padded).view(len(self.counts), -1, x.shape[1])
        return torch.bmm(rows, matrices).flatten(0, 1).index_select(0, places)

    def outer(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Each slot's sum over its tokens of x times y: (M, a) and (M, b) -> (n, a, b)."""
        if grouped(x.t(), y):
            return functional.grouped_mm(x.t(), y, offs=self.ends)
        padded, places = self._padded
        left = x.new_zeros(len(padded), x.shape[1]).index_copy_(0, places, x)
        right = y.index_select(0, padded).view(len(self.counts), -1, y.shape[1])
        return torch.bmm(left.view(len(self.counts), -1, x.shape[1]).transpose(1, 2), right)

    @cached_property
    def _padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For (n, longest): the token at each place (padding repeats the first one), and the place of each token."""
        longest = int(self.counts.max())
        starts = self.counts.cumsum(0) - self.counts
        total = int(self.counts.sum())
        row = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)
        places = row * longest + torch.arange(total) - torch.repeat_interleave(starts, self.counts)
        padded = torch.zeros(len(self.counts) * longest, dtype=torch.long)
        padded[places] = torch.arange(total)
        return padded.to(self.scales.device), places.to(self.scales.device)


def index_tokens(slots: torch.Tensor, scales: torch.Tensor) -> TokenIndex:
    """Compile the layout of flat tokens; at least one of them must have an adapter.

    Args:
        slots: Slot of each token, (M,), -1 for tokens of no adapter; best on the CPU, where they are compiled.
        scales: alpha / rank of each slot, (N,), on the device of the tokens.
    """
    device, slots = scales.device, slots.cpu()
    active, counts = torch.unique(slots[slots >= 0], return_counts=True)
    in_order = bool((slots[0] >= 0) and (slots[1:] >= slots[:-1]).all())
    order = None if in_order else torch.argsort(slots, stable=True)[int((slots < 0).sum()) :].to(device)
    first, last = int(active[0]), int(active[-1])
    together = last - first + 1 == len(active)
    return TokenIndex(
        active=slice(first, last + 1) if together else active.to(device),
        counts=counts,
        order=order,
        scales=scales[slots[slots >= 0].sort().values.to(device), None],
        tokens=len(slots),
    )


class Routing:
    """The slots of a batch, per row (B,) or per token (B, T); indices are compiled once for each number of tokens.

    Some layers see their tokens flat, (B * T, features): OPT's feed-forward layers, routers and shared experts of
    mixtures. Where one adapter has all tokens, a layer may see any of them (an expert sees those that are sent to it).
    """

    def __init__(self, slots: torch.Tensor, scales: torch.Tensor) -> None:
        self.slots = slots.cpu()  # compiled there
        self.scales = scales
        self.nothing = bool((self.slots < 0).all())
        self._only = int(self.slots.flatten()[0]) if bool((self.slots == self.slots.flatten()[0]).all()) else None
        self._by_tokens: dict[int, TokenIndex] = {}

    def index(self, shape: Sequence[int]) -> TokenIndex:
        """The layout of a layer's input.

        Args:
            shape: Dimensions of the input without the features: (B, T), or (B * T,).

        Raises:
            RoutingError: The layer sees other tokens than the batch has, and they belong to several adapters.
        """
        tokens = math.prod(shape)
        if tokens not in self._by_tokens:
            self._by_tokens[tokens] = index_tokens(self._of_tokens(tokens), self.scales)
        return self._by_tokens[tokens]

    def _of_tokens(self, tokens: int) -> torch.Tensor:
        """The slot of each of the tokens, (tokens,), row by row."""
        if self._only is not None:
            return torch.full((tokens,), self._only)
        known = self.slots.numel()
        if self.slots.dim() == 2 and tokens == known:
            return self.slots.flatten()
        if self.slots.dim() == 1 and tokens % known == 0:
            return self.slots.repeat_interleave(tokens // known)
        raise RoutingError(f"a layer sees {tokens} tokens of a batch of {tuple(self.slots.shape)}")
