"""Training sequences of different lengths as one batch: packed end to end in one row, or padded to rows of one length.

Position ids start again at 0 with every packed sequence, which tells attention where one ends. Padding stands at the
end of a sequence, where a causal model has read its tokens already; it needs no mask, carries no loss, and so gives
every product a gradient of exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, chain, groupby, pairwise

import torch

from seal_lightning.inner_loop.objectives import OBJECTIVES, InnerObjective
from seal_lightning.models.transfer import sent_together

_GROUP = 48  # tokens of padding that one group less is worth


@dataclass(frozen=True, slots=True)
class Aim:
    """What an objective makes of the tokens `tokens[start:end]` of a sequence, each weighted by `weight`.

    `teacher` is what the objective's teacher says in place of each, as states of its own, (n, d).
    """

    objective: InnerObjective
    start: int
    end: int
    weight: float
    teacher: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One tokenised sequence of an adapter: the loss is on `tokens[prompt:]`, each target weighted by `weight`.

    `targets` may stand in place of these tokens, a number for each: whatever the loss makes of them. Where there are
    `aims`, one for each objective that the sequence is trained towards, they say where the loss is, and its weights.
    """

    slot: int
    tokens: Sequence[int]
    prompt: int
    weight: float
    targets: Sequence[int] | None = None
    aims: tuple[Aim, ...] = ()

    def objectives(self) -> tuple[Aim, ...]:
        """The aims, of which a sequence without any has that of its next tokens."""
        # the first token of a sequence has nothing before it to be predicted from
        return self.aims or (Aim(OBJECTIVES["sft"], max(1, self.prompt), len(self.tokens), self.weight),)


@dataclass(frozen=True, slots=True)
class Section:
    """The next `count` targets of a batch: what they are trained towards, and what its teacher says, (count, d)."""

    objective: InnerObjective
    count: int
    teacher: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Sequences that lie one after the other, each `length` tokens long with its padding; and the slots of each."""

    length: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Tensors of one forward pass over B rows of T tokens; B is 1 where sequences are packed.

    Attributes:
        groups: Which adapter each token of the flattened rows belongs to; padding counts as its sequence's.
        input_ids: (B, T).
        position_ids: (1, T) of a packed row; None if every row is a sequence of its own.
        positions: Places of the flattened rows whose next token is a target, (S,).
        targets: Those tokens, (S,).
        weights: Their share in the loss, (S,).
        owners: Their slots, (S,).
        starts: Where each sequence starts in the flattened rows, and where the last one ends, (n + 1,), int32.
        sections: Whose the targets are: those of one objective lie one after the other.
    """

    groups: tuple[LengthGroup, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor
    starts: torch.Tensor
    sections: tuple[Section, ...]

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model reads."""
        rows = {"input_ids": self.input_ids}
        return rows if self.position_ids is None else {**rows, "position_ids": self.position_ids}

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on a device, in one copy that the host does not wait for."""
        tensors = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("groups", "sections")}
        return replace(self, **dict(zip(tensors, sent_together(list(tensors.values()), device), strict=True)))


def pack(sequences: Sequence[PackedSequence]) -> TrainingBatch:
    """All sequences in one row, by slot and without padding."""
    return _in_one_row([[sequence] for sequence in sorted(sequences, key=lambda sequence: sequence.slot)])


def pack_in_groups(sequences: Sequence[PackedSequence]) -> TrainingBatch:
    """All sequences in one row, longest first, in groups that are padded to one length."""
    ordered = sorted(sequences, key=lambda sequence: (-len(sequence.tokens), sequence.slot))
    lengths = [len(sequence.tokens) for sequence in ordered]
    starts = [0, *accumulate(group_sizes(lengths))]
    grouped = [ordered[start:end] for start, end in pairwise(starts)]
    return _in_one_row([sorted(group, key=lambda sequence: sequence.slot) for group in grouped])


def group_sizes(lengths: Sequence[int]) -> list[int]:
    """How many neighbours of falling `lengths` form each group, so that padding and groups together cost least."""
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    before = [0, *accumulate(count for _, count in runs)]
    best: list[tuple[float, int]] = [(0.0, 0)]  # by number of runs: tokens, and where the last group starts
    for end in range(1, len(runs) + 1):
        costs = (
            (best[start][0] + (before[end] - before[start]) * runs[start][0] + _GROUP, start) for start in range(end)
        )
        best.append(min(costs))
    sizes: list[int] = []
    end = len(runs)
    while end:
        start = best[end][1]
        sizes.append(before[end] - before[start])
        end = start
    return sizes[::-1]


def _in_one_row(grouped: Sequence[Sequence[PackedSequence]]) -> TrainingBatch:
    groups = tuple(
        LengthGroup(max(len(sequence.tokens) for sequence in group), tuple(sequence.slot for sequence in group))
        for group in grouped
    )
    row = [token for group, some in zip(groups, grouped, strict=True) for one in some for token in _filled(one, group)]
    places = [place for group in groups for _ in group.slots for place in range(group.length)]
    return _batch(grouped, groups, rows=[row], position_ids=torch.tensor([places]))


def pad(sequences: Sequence[PackedSequence]) -> TrainingBatch:
    """Each sequence in a row of its own, by slot."""
    ordered = sorted(sequences, key=lambda sequence: sequence.slot)
    longest = max(len(sequence.tokens) for sequence in ordered)
    group = LengthGroup(longest, tuple(sequence.slot for sequence in ordered))
    return _batch([ordered], (group,), rows=[_filled(one, group) for one in ordered], position_ids=None)


def _filled(sequence: PackedSequence, group: LengthGroup) -> list[int]:
    """The sequence's tokens, filled up with the last one."""
    return [*sequence.tokens, *[sequence.tokens[-1]] * (group.length - len(sequence.tokens))]


def _batch(
    grouped: Sequence[Sequence[PackedSequence]],
    groups: tuple[LengthGroup, ...],
    *,
    rows: list[list[int]],
    position_ids: torch.Tensor | None,
) -> TrainingBatch:
    starts = [0, *accumulate(group.length for group in groups for _ in group.slots)]
    laid = list(zip(starts, chain.from_iterable(grouped), strict=False))
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    sections: list[Section] = []
    for objective in dict.fromkeys(aim.objective for _, sequence in laid for aim in sequence.objectives()):
        taught = [
            (start, sequence, aim)
            for start, sequence in laid
            for aim in sequence.objectives()
            if aim.objective is objective
        ]
        before = len(positions)
        for start, sequence, aim in taught:
            count = aim.end - aim.start
            positions += range(start + aim.start - 1, start + aim.end - 1)
            targets += sequence.tokens[aim.start : aim.end] if sequence.targets is None else sequence.targets
            weights += [aim.weight] * count
            owners += [sequence.slot] * count
        states = [aim.teacher for *_, aim in taught if aim.teacher is not None]
        sections.append(Section(objective, len(positions) - before, torch.cat(states) if states else None))
    return TrainingBatch(
        groups=groups,
        input_ids=torch.tensor(rows),
        position_ids=position_ids,
        positions=torch.tensor(positions, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights),
        owners=torch.tensor(owners, dtype=torch.long),
        starts=torch.tensor(starts, dtype=torch.int32),
        sections=tuple(sections),
    )


def split(sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[list[PackedSequence]]:
    """Deal sequences to packed rows of at most `max_tokens` each, and of as many as that takes; a longer one goes over.

    Neighbours by length share a row, which leaves little to pad.
    """
    ordered = sorted(sequences, key=lambda sequence: (-len(sequence.tokens), sequence.slot))
    total = sum(len(sequence.tokens) for sequence in ordered)
    share = math.ceil(total / max(1, math.ceil(total / max_tokens)))  # rows of about the same size
    parts: list[list[PackedSequence]] = []
    taken = 0
    for sequence in ordered:
        length = len(sequence.tokens)
        if not parts or taken + length > max_tokens or taken + length / 2 > share:
            parts.append([])
            taken = 0
        parts[-1].append(sequence)
        taken += length
    return parts


def split_padded(sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[list[PackedSequence]]:
    """The same for padded rows: neighbours by length share a pass, and padding counts."""
    parts: list[list[PackedSequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: -len(sequence.tokens)):
        if not parts or (len(parts[-1]) + 1) * len(parts[-1][0].tokens) > max_tokens:
            parts.append([])
        parts[-1].append(sequence)
    return parts
