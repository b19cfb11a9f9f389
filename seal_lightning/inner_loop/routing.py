"""Which token belongs to which adapter: the layout of a batch, compiled on the host and sent to the device at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn import functional

from seal_lightning.inner_loop.layouts import Blocks, Padded, Slices, Slots, TokenIndex
from seal_lightning.inner_loop.packing import LengthGroup, group_sizes
from seal_lightning.models.transfer import sent_together

_GROUPED = (9, 10)  # Hopper and Blackwell for data centres: torch's GroupedBlas.cpp


class RoutingError(RuntimeError):
    """The adapter that a layer's tokens belong to is unknown."""


@dataclass(frozen=True, slots=True)
class Shelf:
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
    if device.type == "cuda":  # others, GeForce's Blackwell (12) among them, have a stand-in for which the host waits
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] in _GROUPED
    return device.type == "cpu" and dtype == torch.float32


def index_groups(groups: Sequence[LengthGroup], bank: Shelf) -> TokenIndex:
    """The layout of tokens that lie in groups of equally long blocks."""
    every = [(slot, group.length) for group in groups for slot in group.slots]
    slots, lengths = [slot for slot, _ in every], [length for _, length in every]
    if bank.grouped and bank.device.type == "cuda":
        return _slices(slots, lengths, None, bank)
    same = len({bank.scales[slot] for slot in slots}) == 1
    mixed = [] if same else [torch.tensor([bank.scales[slot] for slot in group.slots]) for group in groups]
    parts = _on_device(
        bank.device, *(_slots(group.slots) for group in groups), *(scales[:, None, None] for scales in mixed)
    )
    shapes = [(len(group.slots), group.length) for group in groups]
    return Blocks(shapes, parts[: len(groups)], bank.scales[slots[0]] if same else parts[len(groups) :])


def index_tokens(slots: torch.Tensor, bank: Shelf) -> TokenIndex:
    """The layout of flat tokens; at least one of them must have an adapter.

    Args:
        slots: Slot of each token, (M,), -1 for tokens of no adapter; on the CPU.
        bank: What it depends on.
    """
    active, counts = torch.unique(slots[slots >= 0], return_counts=True)
    used, lengths = active.tolist(), counts.tolist()
    in_order = bool((slots[0] >= 0) and (slots[1:] >= slots[:-1]).all())
    if in_order and len(set(lengths)) == 1:
        return index_groups([LengthGroup(lengths[0], tuple(used))], bank)
    order = torch.argsort(slots, stable=True)[int((slots < 0).sum()) :]
    if bank.grouped:
        return _slices(used, lengths, None if in_order else order, bank)
    return _padded(used, lengths, order, bank)


def _slices(slots: Sequence[int], lengths: Sequence[int], order: torch.Tensor | None, bank: Shelf) -> Slices:
    ends = torch.tensor(lengths).cumsum(0).to(torch.int32)
    scales: torch.Tensor | float = bank.scales[slots[0]]
    if len({bank.scales[slot] for slot in slots}) > 1:
        each = torch.tensor([bank.scales[slot] for slot in slots])
        scales = each.repeat_interleave(torch.tensor(lengths))[:, None]
    return Slices(*_on_device(bank.device, _slots(slots), ends, order, scales))


def _padded(slots: Sequence[int], lengths: Sequence[int], order: torch.Tensor, bank: Shelf) -> Padded:
    starts = [0, *accumulate(lengths)]
    longest_first = sorted(range(len(slots)), key=lambda number: -lengths[number])
    bounds = [0, *accumulate(group_sizes([lengths[number] for number in longest_first]))]
    grouped = [sorted(longest_first[start:end]) for start, end in pairwise(bounds)]
    groups, places, taken, at = [], [], [], 0
    for numbers in grouped:
        length = max(lengths[number] for number in numbers)
        groups.append(LengthGroup(length, tuple(slots[number] for number in numbers)))
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
    moved = iter(sent_together([tensor for part in parts for tensor in _tensors(part)], device))

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

    def __init__(self, slots: torch.Tensor | Sequence[LengthGroup], bank: Shelf) -> None:
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
