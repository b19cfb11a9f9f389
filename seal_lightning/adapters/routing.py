"""Which token belongs to which adapter, compiled into the indices that the bank's matrix products need.

Tokens of one adapter may lie anywhere in a packed batch. They are gathered into (adapters, longest, features),
multiplied there with one batched product, and gathered back; both directions are plain index selections, in the
backward pass too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TokenIndex:
    """Indices for one layout of tokens.

    Attributes:
        active: Slots that have tokens, ascending, (n,); a slice where they follow each other, which spares copies.
        count: How many those are, n.
        gather: Flat token of each place of the padded layout, (n * L,); padding points at token 0.
        padding: Places of the padded layout that hold no token, or None.
        back: Place of each flat token in the padded layout, (M,); tokens of no adapter point at place 0.
        idle: Flat tokens of no adapter, or None.
        in_order: The padded layout is the flat layout, so nothing needs gathering.
    """

    active: torch.Tensor | slice
    count: int
    gather: torch.Tensor
    padding: torch.Tensor | None
    back: torch.Tensor
    idle: torch.Tensor | None
    in_order: bool


def index_tokens(slots: torch.Tensor) -> TokenIndex:
    """Compile the slots of flat tokens, (M,), -1 for tokens of no adapter. At least one token must have an adapter."""
    device = slots.device
    slots = slots.cpu()
    active, counts = torch.unique(slots[slots >= 0], return_counts=True)
    longest = int(counts.max())
    order = torch.argsort(slots, stable=True)[int((slots < 0).sum()) :]  # tokens by slot, each slot's in flat order
    starts = torch.cumsum(counts, 0) - counts
    row = torch.repeat_interleave(torch.arange(len(active)), counts)
    place = row * longest + torch.arange(len(order)) - torch.repeat_interleave(starts, counts)
    gather = torch.zeros(len(active) * longest, dtype=torch.long)
    gather[place] = order
    filled = torch.zeros(len(active) * longest, dtype=torch.bool)
    filled[place] = True
    back = torch.zeros(len(slots), dtype=torch.long)
    back[order] = place
    in_order = len(gather) == len(slots) and bool((gather == torch.arange(len(gather))).all())
    padding = torch.nonzero(~filled).squeeze(1)
    idle = torch.nonzero(slots < 0).squeeze(1)
    return TokenIndex(
        active=_as_slice(active) or active.to(device),
        count=len(active),
        gather=gather.to(device),
        padding=padding.to(device) if len(padding) else None,
        back=back.to(device),
        idle=idle.to(device) if len(idle) else None,
        in_order=in_order,
    )


def _as_slice(active: torch.Tensor) -> slice | None:
    first, last = int(active[0]), int(active[-1])
    return slice(first, last + 1) if last - first + 1 == len(active) else None


class Routing:
    """The slots of a batch, per row (B,) or per token (B, T); indices are compiled once for each number of tokens."""

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self.nothing = bool((slots < 0).all())
        self._by_length: dict[int, TokenIndex] = {}

    def index(self, tokens: int) -> TokenIndex:
        """For inputs of (B, `tokens`, features)."""
        if tokens not in self._by_length:
            slots = self.slots if self.slots.dim() == 2 else self.slots[:, None].expand(-1, tokens)
            assert slots.shape[1] == tokens, "routing per token needs the tokens it was made for"
            self._by_length[tokens] = index_tokens(slots.reshape(-1))
        return self._by_length[tokens]
