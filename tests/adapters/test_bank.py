"""The bank's parts: routing, gradients, targets, the optimizer's slots, and a policy that carries an adapter."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from seal_lightning.adapters import AdapterBank
from seal_lightning.adapters.bank import StackedLoRA, find_targets
from seal_lightning.adapters.routing import index_tokens
from seal_lightning.errors import ConfigError
from seal_lightning.tiny import FAMILIES, build_tiny


def test_tokens_are_gathered_by_slot_and_put_back():
    index = index_tokens(torch.tensor([2, -1, 0, 2, 0, 2]))
    assert index.active.tolist() == [0, 2]
    assert index.gather.view(2, 3).tolist() == [[2, 4, 0], [0, 3, 5]]  # the third place of slot 0 is padding
    assert index.padding.tolist() == [2]
    assert index.idle.tolist() == [1]
    assert index.back.tolist() == [3, 0, 0, 4, 1, 5]
    assert not index.in_order
    assert index_tokens(torch.tensor([0, 0, 1, 1])).in_order


@pytest.mark.parametrize("slots", [[2, -1, 0, 2, 0, 2], [0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_gradients_are_those_of_the_plain_formula(slots):
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (3, 5, 2), (3, 2, 4)))
    weight = torch.randn(6, 4, generator=generator)
    wanted = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
    rows = [
        (wanted[0][t] @ wanted[1][slot] @ wanted[2][slot]) * 2.0 if slot >= 0 else torch.zeros(4)
        for t, slot in enumerate(slots)
    ]
    (torch.stack(rows) * weight).sum().backward()
    x.requires_grad_()
    gradients = (torch.zeros_like(a), torch.zeros_like(b))
    output = StackedLoRA.apply(
        x, a.requires_grad_(), b.requires_grad_(), gradients, index_tokens(torch.tensor(slots)), 2.0
    )
    (output * weight).sum().backward()
    torch.testing.assert_close(output, torch.stack(rows))
    torch.testing.assert_close(x.grad, wanted[0].grad)
    torch.testing.assert_close(gradients[0], wanted[1].grad)
    torch.testing.assert_close(gradients[1], wanted[2].grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_targets(family):
    model, _ = build_tiny(family)
    every = find_targets(model, "all-linear")
    default = find_targets(model, "default")
    assert 0 < len(default) <= len(every)
    assert not any("lm_head" in target.name or "embed_out" in target.name for target in every)


def test_unknown_targets_are_named():
    model, _ = build_tiny("llama")
    with pytest.raises(ConfigError, match=r"no linear layer is called query.*some of .*q_proj"):
        find_targets(model, ["query", "q_proj"])


def test_only_the_first_slots_are_stepped():
    model, _ = build_tiny("llama")
    bank = AdapterBank(model, slots=3, rank=2, alpha=4)
    for slot in range(3):
        bank.reset(slot, seed=slot)
    before = bank.parameters.clone()
    bank.gradients.fill_(1.0)
    bank.step(torch.tensor([0.1, 0.2]), max_norm=None)
    moved = (bank.parameters - before).abs().amax(dim=1)
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.2, 0.0]), atol=1e-5, rtol=0)
    assert not bank.gradients.any()


def test_a_reset_slot_is_as_new_and_depends_on_its_seed_alone():
    model, _ = build_tiny("llama")
    bank = AdapterBank(model, slots=2, rank=2, alpha=4)
    bank.reset(0, seed=5)
    fresh = bank.parameters[0].clone()
    bank.gradients.fill_(1.0)
    bank.step(torch.tensor([0.1]), max_norm=1.0)
    bank.reset(0, seed=5)
    bank.reset(1, seed=5)
    assert torch.equal(bank.parameters[0], fresh) and torch.equal(bank.parameters[1], fresh)
    bank.reset(1, seed=6)
    assert not torch.equal(bank.parameters[1], fresh)


def test_the_policys_own_adapter_stays_in_force():
    model, tokenizer = build_tiny("llama")
    probe = torch.tensor([tokenizer("The lamp")["input_ids"]])
    base = model(input_ids=probe).logits
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    policy = wrapped(input_ids=probe).logits
    plain = wrapped.get_base_model()
    bank = AdapterBank(plain, slots=1, rank=2, alpha=4, target_modules="all-linear")
    assert {target.name for target in bank.targets} == {
        t.name for t in find_targets(build_tiny("llama")[0], "all-linear")
    }
    with bank.attached(), bank.routing(torch.tensor([0])):
        bank.reset(0, seed=1)
        torch.testing.assert_close(plain(input_ids=probe).logits, policy)  # B is zero: nothing added yet
        with torch.no_grad():
            bank.parameters.add_(0.05)
        assert (plain(input_ids=probe).logits - policy).abs().max() > 1e-3
    torch.testing.assert_close(plain(input_ids=probe).logits, policy)
    assert (policy - base).abs().max() > 1e-3
