"""An edit is undone whatever happens while it acts: the base's weights stay as they are, bit for bit."""

import hashlib

import pytest
import torch

from seal_lightning.generator.base import flat_rows
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.through_bank import losses_through, make_bank
from seal_lightning.generator.trials import bank_of, drawn_noise
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence
from seal_lightning.models.random_models import build_tiny

EDITS, TOGETHER = 1000, 50
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture
def policy():
    model, tokenizer = build_tiny("llama")
    network = FastWeights(rank=2, alpha=4.0).network(model.requires_grad_(False).eval(), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in network.writing:
            matrix.copy_(torch.randn(matrix.shape, generator=draw))
    return GeneratingPolicy(model, tokenizer, False, network=network)


def digest(model):
    """Of the bytes of every parameter and buffer, with its name."""
    state = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state.update(name.encode())
        state.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def test_the_digest_sees_the_last_bit(policy):
    before, weight = digest(policy.model), next(policy.model.parameters())
    changed = weight.detach().view(torch.int32).view(-1)
    changed[-1] ^= 1
    assert digest(policy.model) != before
    changed[-1] ^= 1
    assert digest(policy.model) == before


@torch.no_grad()
def test_a_thousand_edits_leave_the_base_as_it_was(policy):
    model, before = policy.model, digest(policy.model)
    plain = model(input_ids=IDS).logits
    code = policy.network.code(read_for(policy, ["the old mill"]))
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    for start in range(0, EDITS, TOGETHER):
        noise = torch.stack([drawn_noise(start + number, code) for number in range(TOGETHER)])
        trained = bank_of(policy.network, policy, code + noise)
        with trained.answering(range(TOGETHER)):
            edited = model(input_ids=IDS.expand(TOGETHER, -1)).logits
        assert not any(torch.allclose(one, plain[0], rtol=0, atol=1e-3) for one in edited)
        assert len({tuple(one[-1, :4].tolist()) for one in edited}) == TOGETHER  # each its own
    assert digest(model) == before
    assert torch.equal(model(input_ids=IDS).logits, plain)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


@torch.no_grad()
def test_a_trial_that_fails_half_way_is_undone_too(policy):
    model, before = policy.model, digest(policy.model)
    plain = model(input_ids=IDS).logits
    trained = bank_of(policy.network, policy, policy.network.code(read_for(policy, ["the old mill"])))

    def fail(module, args):
        raise RuntimeError("in the middle")

    last = list(model.modules())[-1]
    for at_work in (model.model.layers[-1], last):
        handle = at_work.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="in the middle"), trained.answering([0]):
            model(input_ids=IDS)
        handle.remove()
        assert digest(model) == before
        assert torch.equal(model(input_ids=IDS).logits, plain)
    with trained.answering([0]):
        assert not torch.equal(model(input_ids=IDS).logits, plain)


def test_learning_through_the_bank_leaves_the_base_as_it_was(policy):
    model, before = policy.model, digest(policy.model)
    bank = make_bank(policy.network.settings, model, slots=2, trainable=True)
    adapters = policy.network(read_for(policy, ["the old mill", "a gate"]))
    rows = flat_rows(adapters, list(bank.A), bank.width)
    sequences = [PackedSequence(slot, IDS[0].tolist(), 2, 0.25) for slot in range(2)]
    losses_through(bank, rows, sequences, HeadLoss(model, adapted=set(bank.A))).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.network.parameters())
    assert digest(model) == before
