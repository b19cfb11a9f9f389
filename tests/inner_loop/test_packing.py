"""Packing: literal tensors."""

import pytest
import torch

from seal_lightning.inner_loop.packing import LengthGroup, PackedSequence, group_sizes, pack, pack_in_groups, pad, split


def sequence(slot, tokens, *, prompt=0, weight=1.0) -> PackedSequence:
    return PackedSequence(slot=slot, tokens=tokens, prompt=prompt, weight=weight)


def test_sequences_lie_end_to_end_by_slot():
    batch = pack(
        [sequence(1, [20, 21], weight=0.5), sequence(0, [10, 11, 12, 13], prompt=2, weight=0.25), sequence(2, [30])]
    )
    assert batch.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 30]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0]]
    assert batch.groups == (LengthGroup(4, (0,)), LengthGroup(2, (1,)), LengthGroup(1, (2,)))
    assert batch.positions.tolist() == [1, 2, 4]  # the masked prompt and a lone first token carry no loss
    assert batch.targets.tolist() == [12, 13, 21]
    assert batch.weights.tolist() == [0.25, 0.25, 0.5]
    assert batch.owners.tolist() == [0, 0, 1]


def test_a_prompt_of_one_token_masks_no_target():
    batch = pack([sequence(0, [10, 11, 12], prompt=1)])
    assert (batch.positions.tolist(), batch.targets.tolist()) == ([0, 1], [11, 12])


@pytest.mark.parametrize("prompt", [0, 1])
def test_sequences_of_one_token_carry_no_loss(prompt):
    batch = pack([sequence(slot, [token], prompt=prompt) for slot, token in ((0, 5), (1, 6))])
    assert (batch.input_ids.tolist(), batch.position_ids.tolist()) == ([[5, 6]], [[0, 0]])
    assert (batch.positions.tolist(), batch.targets.tolist(), batch.weights.tolist()) == ([], [], [])
    assert (batch.positions.dtype, batch.targets.dtype) == (torch.long, torch.long)


def test_a_sequence_that_is_all_prompt_carries_no_loss():
    batch = pack([sequence(0, [5, 6, 7], prompt=3), sequence(1, [8, 9])])
    assert (batch.positions.tolist(), batch.targets.tolist(), batch.owners.tolist()) == ([3], [9], [1])


def test_a_step_is_dealt_to_passes_that_stay_below_max_tokens():
    sequences = [sequence(slot, [slot] * length) for slot, length in enumerate([200, 110, 110, 110] * 6)]
    parts = split(sequences, max_tokens=400)
    assert max(sum(len(s.tokens) for s in part) for part in parts) <= 400
    assert sorted(s.slot for part in parts for s in part) == list(range(24))
    assert len(parts) == 9  # 3,180 tokens need eight at the least
    lengths = [len(s.tokens) for part in parts for s in part]
    assert lengths == sorted(lengths, reverse=True)  # neighbours by length, so that little is padded
    assert [len(part) for part in split(sequences[:3], max_tokens=1)] == [1, 1, 1]


def test_moving_a_batch_keeps_its_contents():
    batch = pack([sequence(0, [1, 2, 3]), sequence(1, [6, 7])])
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == "meta" and moved.weights.shape == (3,)
    assert (moved.groups, batch.input_ids.device.type) == (batch.groups, "cpu")


def test_groups_are_padded_to_their_longest_sequence_longest_first():
    lengths = {0: 200, 1: 3, 2: 2, 3: 190}
    batch = pack_in_groups([sequence(slot, list(range(100 * slot, 100 * slot + n))) for slot, n in lengths.items()])
    assert batch.groups == (LengthGroup(200, (0, 3)), LengthGroup(3, (1, 2)))
    assert batch.input_ids[0, -6:].tolist() == [100, 101, 102, 200, 201, 201]  # the last token again
    assert batch.position_ids[0, -6:].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.positions[-3:].tolist() == [400, 401, 403]  # nothing is predicted at the padding
    assert (batch.targets[-3:].tolist(), batch.owners[-3:].tolist()) == ([101, 102, 201], [1, 1, 2])


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [300, 40, 39, 38, 5], list(range(200, 1, -3))])
def test_groups_cost_the_least_of_all_divisions_of_neighbours(lengths):
    def cost(sizes):
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        return sum(size * lengths[start] + 48 for size, start in zip(sizes, starts, strict=True))

    sizes = group_sizes(lengths)
    assert sum(sizes) == len(lengths)
    others = [[len(lengths)], [1] * len(lengths)]
    others += [[first, len(lengths) - first] for first in range(1, len(lengths))]
    assert cost(sizes) <= min(map(cost, others))


def test_rows_of_one_length_are_one_group():
    batch = pad([sequence(1, [6, 7]), sequence(0, [1, 2, 3])])
    assert batch.groups == (LengthGroup(3, (0, 1)),)
    assert batch.input_ids.tolist() == [[1, 2, 3], [6, 7, 7]]
