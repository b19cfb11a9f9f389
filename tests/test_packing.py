"""Packing: literal tensors."""

import pytest
import torch

from seal_lightning.packing import PackedSequence, pack

PAD = 99


def sequence(slot, tokens, *, prompt=0, weight=1.0) -> PackedSequence:
    return PackedSequence(slot=slot, tokens=tokens, prompt=prompt, weight=weight)


def test_three_sequences_share_two_rows():
    batch = pack(
        [
            sequence(1, [20, 21], weight=0.5),
            sequence(0, [10, 11, 12, 13], prompt=2, weight=0.25),
            sequence(2, [30]),
        ],
        pad_token=PAD,
    )
    assert batch.input_ids.tolist() == [[10, 11, 12, 13], [20, 21, 30, 99]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert batch.slots.tolist() == [[0, 0, 0, 0], [1, 1, 2, -1]]
    assert batch.positions.tolist() == [1, 2, 4]  # flat; the masked prompt and a lone first token carry no loss
    assert batch.targets.tolist() == [12, 13, 21]
    assert batch.weights.tolist() == [0.25, 0.25, 0.5]
    assert batch.padding == 1


def test_a_prompt_of_one_token_masks_no_target():
    batch = pack([sequence(0, [10, 11, 12], prompt=1)], pad_token=PAD)
    assert (batch.positions.tolist(), batch.targets.tolist()) == ([0, 1], [11, 12])


@pytest.mark.parametrize("prompt", [0, 1])
def test_sequences_of_one_token_carry_no_loss(prompt):
    batch = pack([sequence(slot, [token], prompt=prompt) for slot, token in ((0, 5), (1, 6))], pad_token=PAD)
    assert batch.input_ids.tolist() == [[5], [6]]
    assert batch.position_ids.tolist() == [[0], [0]]
    assert (batch.positions.tolist(), batch.targets.tolist(), batch.weights.tolist()) == ([], [], [])
    assert (batch.positions.dtype, batch.targets.dtype, batch.padding) == (torch.long, torch.long, 0)


def test_a_sequence_that_is_all_prompt_carries_no_loss():
    batch = pack([sequence(0, [5, 6, 7], prompt=3), sequence(1, [8, 9])], pad_token=PAD)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 99]]
    assert (batch.positions.tolist(), batch.targets.tolist()) == ([3], [9])


def test_shorter_sequences_fill_the_first_row_with_room():
    batch = pack([sequence(slot, [slot] * length) for slot, length in enumerate([1, 3, 6, 2, 4, 2])], pad_token=PAD)
    assert batch.slots.tolist() == [[2, 2, 2, 2, 2, 2], [4, 4, 4, 4, 3, 3], [1, 1, 1, 5, 5, 0]]
    assert batch.padding == 0


def test_padding_starts_its_own_positions():
    batch = pack([sequence(0, [1, 2, 3, 4, 5]), sequence(1, [6, 7])], pad_token=PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 99, 99, 99]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]]
    assert batch.slots.tolist() == [[0] * 5, [1, 1, -1, -1, -1]]
    assert batch.padding == 3


def test_moving_a_batch_keeps_its_contents():
    batch = pack([sequence(0, [1, 2, 3]), sequence(1, [6, 7])], pad_token=PAD)
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.device.type == "meta" and moved.weights.shape == (3,)
    assert (moved.padding, batch.input_ids.device.type) == (1, "cpu")
