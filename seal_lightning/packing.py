"""Sequences of different lengths in few rows: packed, not padded.

Rows are as long as the longest sequence and hold several shorter ones; position ids that start again at 0 tell
`transformers` to keep them apart in attention. What is left over at a row's end is padding without an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One tokenised sequence of an adapter: the loss is on `tokens[prompt:]`, each target weighted by `weight`."""

    slot: int
    tokens: Sequence[int]
    prompt: int
    weight: float


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Tensors of one forward pass.

    Attributes:
        input_ids: (R, C).
        position_ids: (R, C).
        slots: (R, C), -1 on padding.
        positions: Flat places whose next token is a target, (S,).
        targets: Those tokens, (S,).
        weights: Their share in the loss, (S,).
        padding: How many of the R * C tokens are padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    padding: int

    def to(self, device: torch.device) -> PackedBatch:
        names = ("input_ids", "position_ids", "slots", "positions", "targets", "weights")
        return PackedBatch(*(getattr(self, name).to(device) for name in names), padding=self.padding)


def pack(sequences: Sequence[PackedSequence], *, pad_token: int) -> PackedBatch:
    """First-fit decreasing into rows of the longest sequence's length C."""
    capacity = max(len(sequence.tokens) for sequence in sequences)
    rows: list[list[PackedSequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=lambda s: -len(s.tokens)):
        row = next((number for number, left in enumerate(room) if left >= len(sequence.tokens)), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(sequence)
        room[row] -= len(sequence.tokens)
    return _tensors(rows, capacity, pad_token)


def _tensors(rows: Sequence[Sequence[PackedSequence]], capacity: int, pad_token: int) -> PackedBatch:
    ids: list[list[int]] = []
    places: list[list[int]] = []
    slots: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for number, row in enumerate(rows):
        ids.append([])
        places.append([])
        slots.append([])
        for sequence in row:
            start, length = number * capacity + len(ids[-1]), len(sequence.tokens)
            first = max(1, sequence.prompt)  # the first token of a sequence has nothing before it to be predicted from
            positions += range(start + first - 1, start + length - 1)
            targets += sequence.tokens[first:]
            weights += [sequence.weight] * (length - first)
            ids[-1] += sequence.tokens
            places[-1] += range(length)
            slots[-1] += [sequence.slot] * length
        left = capacity - len(ids[-1])
        ids[-1] += [pad_token] * left
        places[-1] += range(left)
        slots[-1] += [-1] * left
    return PackedBatch(
        input_ids=torch.tensor(ids),
        position_ids=torch.tensor(places),
        slots=torch.tensor(slots),
        positions=torch.tensor(positions, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights),
        padding=sum(row.count(-1) for row in slots),
    )
