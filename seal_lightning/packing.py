"""Sequences of different lengths end to end in one row: packed, not padded.

The tokens lie in the order of their adapters, so that each adapter's are one slice. Position ids start again at 0 with
every sequence; that is what keeps the sequences apart in attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """Tensors of one forward pass over T tokens.

    Attributes:
        input_ids: (1, T).
        position_ids: (1, T).
        slots: (1, T), ascending.
        lengths: Of the sequences, in order.
        positions: Places whose next token is a target, (S,).
        targets: Those tokens, (S,).
        weights: Their share in the loss, (S,).
        owners: Their slots, (S,).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    slots: torch.Tensor
    lengths: tuple[int, ...]
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor

    def to(self, device: torch.device) -> PackedBatch:
        names = ("input_ids", "position_ids", "slots", "positions", "targets", "weights", "owners")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def pack(sequences: Sequence[PackedSequence]) -> PackedBatch:
    """All sequences in one row, by slot."""
    ids: list[int] = []
    places: list[int] = []
    slots: list[int] = []
    lengths: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    for sequence in sorted(sequences, key=lambda sequence: sequence.slot):
        start, length = len(ids), len(sequence.tokens)
        first = max(1, sequence.prompt)  # the first token of a sequence has nothing before it to be predicted from
        positions += range(start + first - 1, start + length - 1)
        targets += sequence.tokens[first:]
        weights += [sequence.weight] * (length - first)
        owners += [sequence.slot] * (length - first)
        ids += sequence.tokens
        places += range(length)
        slots += [sequence.slot] * length
        lengths.append(length)
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([places]),
        slots=torch.tensor([slots]),
        lengths=tuple(lengths),
        positions=torch.tensor(positions, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights),
        owners=torch.tensor(owners, dtype=torch.long),
    )


def split(sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[list[PackedSequence]]:
    """Deal sequences to as few forward passes as hold at most `max_tokens` each; a single longer sequence goes over.

    First fit of falling lengths.
    """
    parts: list[list[PackedSequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=lambda sequence: -len(sequence.tokens)):
        length = len(sequence.tokens)
        part = next((number for number, left in enumerate(room) if left >= length), len(parts))
        if part == len(parts):
            parts.append([])
            room.append(max_tokens)
        parts[part].append(sequence)
        room[part] -= length
    return parts
