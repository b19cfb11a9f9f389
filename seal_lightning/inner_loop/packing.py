"""Training sequences of different lengths as one batch: packed end to end in one row, or padded to rows of one length.

Tokens lie in the order of their adapters, so that each adapter's are one slice. In a packed row position ids start
again at 0 with every sequence, which tells attention where one ends. Padding stands at the end of a row, where a causal
model has read the row's own tokens already; it needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One tokenised sequence of an adapter: the loss is on `tokens[prompt:]`, each target weighted by `weight`."""

    slot: int
    tokens: Sequence[int]
    prompt: int
    weight: float


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Tensors of one forward pass over B rows of T tokens; B is 1 where sequences are packed.

    Attributes:
        input_ids: (B, T).
        position_ids: (1, T) of a packed row; None if every row is a sequence of its own.
        slots: (B, T), ascending; padding counts as its row's.
        lengths: Lengths of the sequences, in order.
        positions: Places of the flattened rows whose next token is a target, (S,).
        targets: Those tokens, (S,).
        weights: Their share in the loss, (S,).
        owners: Their slots, (S,).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    slots: torch.Tensor
    lengths: tuple[int, ...]
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model reads."""
        rows = {"input_ids": self.input_ids}
        return rows if self.position_ids is None else {**rows, "position_ids": self.position_ids}

    def to(self, device: torch.device) -> TrainingBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def pack(sequences: Sequence[PackedSequence]) -> TrainingBatch:
    """All sequences in one row, by slot."""
    ordered = sorted(sequences, key=lambda sequence: sequence.slot)
    starts = [0, *accumulate(len(sequence.tokens) for sequence in ordered)]
    row = [token for sequence in ordered for token in sequence.tokens]
    places = [place for sequence in ordered for place in range(len(sequence.tokens))]
    slots = [sequence.slot for sequence in ordered for _ in sequence.tokens]
    return _batch(ordered, starts, rows=[row], slots=[slots], position_ids=torch.tensor([places]))


def pad(sequences: Sequence[PackedSequence]) -> TrainingBatch:
    """Each sequence in a row of its own, by slot; shorter ones are filled up with their last token."""
    ordered = sorted(sequences, key=lambda sequence: sequence.slot)
    longest = max(len(sequence.tokens) for sequence in ordered)
    rows = [[*one.tokens, *[one.tokens[-1]] * (longest - len(one.tokens))] for one in ordered]
    slots = [[sequence.slot] * longest for sequence in ordered]
    return _batch(ordered, range(0, len(rows) * longest, longest), rows=rows, slots=slots, position_ids=None)


def _batch(
    ordered: Sequence[PackedSequence],
    starts: Iterable[int],
    *,
    rows: list[list[int]],
    slots: list[list[int]],
    position_ids: torch.Tensor | None,
) -> TrainingBatch:
    """`starts` are where the sequences begin in the flattened rows."""
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    for sequence, start in zip(ordered, starts, strict=False):
        length = len(sequence.tokens)
        first = max(1, sequence.prompt)  # the first token of a sequence has nothing before it to be predicted from
        positions += range(start + first - 1, start + length - 1)
        targets += sequence.tokens[first:]
        weights += [sequence.weight] * (length - first)
        owners += [sequence.slot] * (length - first)
    return TrainingBatch(
        input_ids=torch.tensor(rows),
        position_ids=position_ids,
        slots=torch.tensor(slots),
        lengths=tuple(len(sequence.tokens) for sequence in ordered),
        positions=torch.tensor(positions, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights),
        owners=torch.tensor(owners, dtype=torch.long),
    )


def split(sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[list[PackedSequence]]:
    """Deal sequences to as few packed rows as hold at most `max_tokens` each; a single longer sequence goes over.

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


def split_padded(sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[list[PackedSequence]]:
    """The same for padded rows: neighbours by length share a pass, and padding counts."""
    parts: list[list[PackedSequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: -len(sequence.tokens)):
        if not parts or (len(parts[-1]) + 1) * len(parts[-1][0].tokens) > max_tokens:
            parts.append([])
        parts[-1].append(sequence)
    return parts
