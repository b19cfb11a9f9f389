"""Which token belongs to which adapter, and the products of each adapter's tokens with its own matrices.

In training, tokens lie in groups of equally long sequences, one adapter's each: every group is a batched product on
views of the tokens. Elsewhere (rows of answers, a layer that sees some tokens only) they are taken in the order of their
adapters. Where torch has a grouped matrix product for the adapters (float32 on a CPU, bfloat16 on newer GPUs), it takes
slices of any lengths at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional

from seal_lightning.inner_loop.packing import Group, group_sizes, move_together


class RoutingError(RuntimeError):
    """The adapter that a layer's tokens belong to is unknown."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The matrices of one layer for all slots: A (N, r, inputs), B (N, r, outputs), and the buffers of their gradients.

    The gradients are added to these in the backward pass, so that the flat layout that the optimizer wants costs no
    copy; autograd sees the gradient of the input alone.
    """

    A: torch.Tensor
    B: torch.Tensor
    grad_A: torch.Tensor | None
    grad_B: torch.Tensor | None


class TokenIndex(ABC):
    """How M flat tokens are shared out to adapters, and what the adapters of one layer do with them."""

    @abstractmethod
    def add_output(self, out: torch.Tensor, x: torch.Tensor, pair: Pair) -> list[torch.Tensor]:
        """Add the adapters' output to `out` (M, outputs), for tokens x (M, inputs).

        Returns:
            The narrow products with A, which the backward pass needs.
        """

    @abstractmethod
    def add_gradients(
        self, into: torch.Tensor | None, grad: torch.Tensor, x: torch.Tensor, narrow: Sequence[torch.Tensor], pair: Pair
    ) -> None:
        """Add the gradients of A and B to their buffers, and that of the input to `into` (M, inputs).

        Args:
            into: None where the input needs no gradient.
            grad: Gradient of the output, (M, outputs).
            x: The input, (M, inputs).
            narrow: What `add_output` returned.
            pair: The layer's matrices.
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

    def of(self, matrices: torch.Tensor) -> torch.Tensor:
        """The matrices (n, ...) of the blocks, from those of all slots (N, ...)."""
        return matrices[self.where] if isinstance(self.where, slice) else matrices.index_select(0, self.where)

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
        shapes: Of each group, the number of blocks n and their length L.
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
        """Scale the narrow products where blocks differ in it; returns the scale that is still to be multiplied with."""
        if isinstance(self.scales, float):
            return self.scales
        for part, scale in zip(narrow, self.scales, strict=True):
            part.mul_(scale)
        return 1.0

    def add_output(self, out: torch.Tensor, x: torch.Tensor, pair: Pair) -> list[torch.Tensor]:
        taken, down = self._parts(x.to(pair.A.dtype)), pair.A.transpose(1, 2)
        narrow = [torch.bmm(part, slots.of(down)) for part, slots in zip(taken, self.slots, strict=True)]
        scale = self._scaled(narrow)
        self._add_products(out, narrow, pair.B, scale)
        return narrow

    def _add_products(
        self, out: torch.Tensor, narrow: list[torch.Tensor], matrices: torch.Tensor, scale: float
    ) -> None:
        for part, wide, slots in zip(narrow, self._parts(out), self.slots, strict=True):
            if wide.dtype == part.dtype:
                wide.baddbmm_(part, slots.of(matrices), alpha=scale)
            else:
                wide.add_(torch.bmm(part, slots.of(matrices)), alpha=scale)

    def add_gradients(
        self, into: torch.Tensor | None, grad: torch.Tensor, x: torch.Tensor, narrow: Sequence[torch.Tensor], pair: Pair
    ) -> None:
        assert pair.grad_A is not None and pair.grad_B is not None, "a bank that only answers has no gradients"
        wide, taken, up = self._parts(grad.to(pair.B.dtype)), self._parts(x.to(pair.A.dtype)), pair.B.transpose(1, 2)
        grads = [torch.bmm(part, slots.of(up)) for part, slots in zip(wide, self.slots, strict=True)]
        scale = self._scaled(grads)
        for slots, part, grad_part, given, grad_given in zip(self.slots, taken, grads, narrow, wide, strict=True):
            slots.add(pair.grad_A, torch.bmm(grad_part.transpose(1, 2), part), scale=scale)
            slots.add(pair.grad_B, torch.bmm(given.transpose(1, 2), grad_given), scale=scale)
        if into is not None:
            self._add_products(into, grads, pair.A, scale)


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
        return (flat if self.order is None else flat.index_select(0, self.order)).to(dtype)

    def _product(self, x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(x, self.slots.of(matrices), offs=self.ends)

    def _add(self, out: torch.Tensor, values: torch.Tensor) -> None:
        if self.order is None:
            out.add_(values)
        else:
            out.index_add_(0, self.order, values.to(out.dtype))  # each token once: exact

    def add_output(self, out: torch.Tensor, x: torch.Tensor, pair: Pair) -> list[torch.Tensor]:
        narrow = self._product(self._take(x, pair.A.dtype), pair.A.transpose(1, 2)).mul_(self.scales)
        self._add(out, self._product(narrow, pair.B))
        return [narrow]

    def add_gradients(
        self, into: torch.Tensor | None, grad: torch.Tensor, x: torch.Tensor, narrow: Sequence[torch.Tensor], pair: Pair
    ) -> None:
        assert pair.grad_A is not None and pair.grad_B is not None, "a bank that only answers has no gradients"
        wide, taken = self._take(grad, pair.B.dtype), self._take(x, pair.A.dtype)
        grad_narrow = self._product(wide, pair.B.transpose(1, 2)).mul_(self.scales)
        self.slots.add(pair.grad_A, functional.grouped_mm(grad_narrow.t(), taken, offs=self.ends))
        self.slots.add(pair.grad_B, functional.grouped_mm(narrow[0].t(), wide, offs=self.ends))
        if into is not None:
            self._add(into, self._product(grad_narrow, pair.A))


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

    def add_output(self, out: torch.Tensor, x: torch.Tensor, pair: Pair) -> list[torch.Tensor]:
        taken = self._take(x)
        padded = out.new_zeros(len(taken), out.shape[1])
        narrow = self.blocks.add_output(padded, taken, pair)
        self._add(out, padded)
        return narrow

    def add_gradients(
        self, into: torch.Tensor | None, grad: torch.Tensor, x: torch.Tensor, narrow: Sequence[torch.Tensor], pair: Pair
    ) -> None:
        taken = self._take(x)
        padded = None if into is None else torch.zeros_like(taken)
        self.blocks.add_gradients(padded, self._take(grad), taken, narrow, pair)
        if into is not None and padded is not None:
            self._add(into, padded.to(into.dtype))


@dataclass(frozen=True, slots=True)
class Bank:
    """What the layouts of a bank's tokens depend on.

    Attributes:
        scales: alpha / rank of each slot.
        device: Where the tokens are.
        grouped: Whether torch's grouped product takes the bank's matrices (`has_grouped`).
    """

    scales: Sequence[float]
    device: torch.device
    grouped: bool


def has_grouped(device: torch.device, dtype: torch.dtype, widths: Sequence[int]) -> bool:
    """Whether torch has a fast grouped matrix product for matrices of these widths, whose rows have to be aligned."""
    if not hasattr(functional, "grouped_mm") or any(width * dtype.itemsize % 16 for width in widths):
        return False
    if device.type == "cuda":  # others have a slow stand-in
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] >= 9
    return device.type == "cpu" and dtype == torch.float32


def index_groups(groups: Sequence[Group], bank: Bank) -> TokenIndex:
    """The layout of tokens that lie in groups of equally long blocks."""
    every = [(slot, group.length) for group in groups for slot in group.slots]
    slots, lengths = [slot for slot, _ in every], [length for _, length in every]
    if bank.grouped and bank.device.type == "cuda":
        return _slices(slots, lengths, None, bank)
    same = len({bank.scales[slot] for slot in slots}) == 1
    scales = (
        [] if same else [torch.tensor([bank.scales[slot] for slot in group.slots])[:, None, None] for group in groups]
    )
    parts = _on_device(bank.device, *(_slots(group.slots) for group in groups), *scales)
    shapes = [(len(group.slots), group.length) for group in groups]
    return Blocks(shapes, parts[: len(groups)], bank.scales[slots[0]] if same else parts[len(groups) :])


def index_tokens(slots: torch.Tensor, bank: Bank) -> TokenIndex:
    """The layout of flat tokens; at least one of them must have an adapter.

    Args:
        slots: Slot of each token, (M,), -1 for tokens of no adapter; on the CPU.
        bank: What it depends on.
    """
    active, counts = torch.unique(slots[slots >= 0], return_counts=True)
    used, lengths = active.tolist(), counts.tolist()
    in_order = bool((slots[0] >= 0) and (slots[1:] >= slots[:-1]).all())
    if in_order and len(set(lengths)) == 1:
        return index_groups([Group(lengths[0], tuple(used))], bank)
    order = torch.argsort(slots, stable=True)[int((slots < 0).sum()) :]
    if bank.grouped:
        return _slices(used, lengths, None if in_order else order, bank)
    return _padded(used, lengths, order, bank)


def _slices(slots: Sequence[int], lengths: Sequence[int], order: torch.Tensor | None, bank: Bank) -> Slices:
    ends = torch.tensor(lengths).cumsum(0).to(torch.int32)
    scales: torch.Tensor | float = bank.scales[slots[0]]
    if len({bank.scales[slot] for slot in slots}) > 1:
        each = torch.tensor([bank.scales[slot] for slot in slots])
        scales = each.repeat_interleave(torch.tensor(lengths))[:, None]
    return Slices(*_on_device(bank.device, _slots(slots), ends, order, scales))


def _padded(slots: Sequence[int], lengths: Sequence[int], order: torch.Tensor, bank: Bank) -> Padded:
    starts = [0, *accumulate(lengths)]
    longest_first = sorted(range(len(slots)), key=lambda number: -lengths[number])
    bounds = [0, *accumulate(group_sizes([lengths[number] for number in longest_first]))]
    grouped = [sorted(longest_first[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    groups, places, taken, at = [], [], [], 0
    for numbers in grouped:
        length = max(lengths[number] for number in numbers)
        groups.append(Group(length, tuple(slots[number] for number in numbers)))
        for number in numbers:
            taken.append(order[starts[number] : starts[number + 1]])
            places.append(torch.arange(at, at + lengths[number]))
            at += length
    blocks = index_groups(groups, bank)
    assert isinstance(blocks, Blocks)
    return Padded(blocks, *_on_device(bank.device, torch.cat(taken), torch.cat(places)))


def _slots(slots: Sequence[int]) -> Slots:
    """Slots of blocks, in the order of the blocks; on the CPU."""
    turns: list[tuple[list[int], list[int]]] = []
    seen: dict[int, int] = {}
    for block, slot in enumerate(slots):
        turn = seen[slot] = seen.get(slot, -1) + 1
        if turn == len(turns):
            turns.append(([], []))
        turns[turn][0].append(block)
        turns[turn][1].append(slot)
    return Slots(_index(slots), tuple((_index(blocks), _index(some)) for blocks, some in turns))


def _index(numbers: Sequence[int]) -> torch.Tensor | slice:
    first = numbers[0]
    if all(number == first + at for at, number in enumerate(numbers)):
        return slice(first, first + len(numbers))
    return torch.tensor(numbers)


def _tensors(part: object) -> list[torch.Tensor]:
    if isinstance(part, Slots):
        return _tensors(part.where) + [tensor for pair in part.turns for half in pair for tensor in _tensors(half)]
    return [part] if isinstance(part, torch.Tensor) else []


def _on_device(device: torch.device, *parts: Any) -> list[Any]:
    """The same tensors, slots and numbers on the device; all tensors go there together."""
    moved = iter(move_together([tensor for part in parts for tensor in _tensors(part)], device))

    def put(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return next(moved)
        if isinstance(part, Slots):
            return Slots(put(part.where), tuple((put(blocks), put(slots)) for blocks, slots in part.turns))
        return part

    return [put(part) for part in parts]


class Routing:
    """The slots of a batch; the layout is compiled once for each number of tokens that a layer sees.

    Some layers see their tokens flat, (B * T, features): OPT's feed-forward layers, routers and shared experts of
    mixtures. Where one adapter has all tokens, a layer may see any of them (an expert sees those that are sent to it).

    Args:
        slots: Slot of each row (B,) or token (B, T), -1 for none; or the groups of a training batch.
        bank: What layouts depend on.
    """

    def __init__(self, slots: torch.Tensor | Sequence[Group], bank: Bank) -> None:
        self.bank = bank
        self._by_tokens: dict[int, TokenIndex] = {}
        if isinstance(slots, torch.Tensor):
            self.slots: torch.Tensor | None = slots.cpu()  # compiled there
            used = set(self.slots.flatten().tolist())
        else:
            self.slots = None
            used = {slot for group in slots for slot in group.slots}
            tokens = sum(group.length * len(group.slots) for group in slots)
            self._by_tokens[tokens] = index_groups(slots, bank)
        self.nothing = used == {-1}
        self._only = used.pop() if len(used) == 1 else None

    def index(self, shape: Sequence[int]) -> TokenIndex:
        """The layout of a layer's input.

        Args:
            shape: Dimensions of the input without the features: (B, T), or (B * T,).

        Raises:
            RoutingError: The layer sees other tokens than the batch has, and they belong to several adapters.
        """
        tokens = math.prod(shape)
        if tokens not in self._by_tokens:
            self._by_tokens[tokens] = index_tokens(self._of_tokens(tokens), self.bank)
        return self._by_tokens[tokens]

    def _of_tokens(self, tokens: int) -> torch.Tensor:
        """The slot of each of the tokens, (tokens,), row by row."""
        if self._only is not None:
            return torch.full((tokens,), self._only)
        if self.slots is not None:
            known = self.slots.numel()
            if self.slots.dim() == 2 and tokens == known:
                return self.slots.flatten()
            if self.slots.dim() == 1 and tokens % known == 0:
                return self.slots.repeat_interleave(tokens // known)
        raise RoutingError(f"a layer sees {tokens} tokens of another batch, which belong to several adapters")
