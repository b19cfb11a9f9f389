"""The bank's parts: routing, gradients, targets, the optimizer's slots, and a policy that carries an adapter."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.bank import AdapterBank, StackedLoRA
from seal_lightning.inner_loop.routing import index_tokens
from seal_lightning.models.layers import find_targets
from seal_lightning.models.random_models import build_tiny


def test_tokens_are_taken_by_slot_and_put_back():
    index = index_tokens(torch.tensor([2, -1, 0, 2, 0, 2]), torch.tensor([1.0, 2.0, 3.0]))
    assert index.active.tolist() == [0, 2]
    assert index.order.tolist() == [2, 4, 0, 3, 5]
    assert (index.counts.tolist(), index.ends.tolist()) == ([2, 3], [2, 5])
    assert index.scales.flatten().tolist() == [1.0, 1.0, 3.0, 3.0, 3.0]
    flat = torch.arange(12.0).view(6, 2)
    assert index.put(index.take(flat))[1].tolist() == [0.0, 0.0]
    assert torch.equal(index.put(index.take(flat))[[0, 2, 3, 4, 5]], flat[[0, 2, 3, 4, 5]])
    in_order = index_tokens(torch.tensor([0, 0, 1, 2]), torch.ones(3))
    assert in_order.order is None and in_order.active == slice(0, 3)


def test_the_padded_products_of_a_gpu_equal_the_grouped_ones_of_a_cpu(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    index = index_tokens(torch.tensor([0, 0, 0, 1, 2, 2]), torch.ones(3))
    x, y, matrices = (torch.randn(*shape, generator=generator) for shape in ((6, 8), (6, 4), (3, 8, 4)))
    product, outer = index.product(x, matrices), index.outer(x, y)
    monkeypatch.setattr("seal_lightning.inner_loop.routing.grouped", lambda *tensors: False)
    torch.testing.assert_close(index.product(x, matrices), product)
    torch.testing.assert_close(index.outer(x, y), outer)


@pytest.mark.parametrize("slots", [[2, -1, 0, 2, 0, 2], [0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_gradients_are_those_of_the_plain_formula(slots):
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (3, 2, 5), (3, 2, 4)))
    weight = torch.randn(6, 4, generator=generator)
    wanted = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
    rows = [
        (wanted[0][t] @ wanted[1][slot].T @ wanted[2][slot]) * 2.0 if slot >= 0 else torch.zeros(4)
        for t, slot in enumerate(slots)
    ]
    (torch.stack(rows) * weight).sum().backward()
    x.requires_grad_()
    gradients = (torch.zeros_like(a), torch.zeros_like(b))
    output = StackedLoRA.apply(
        x, a.requires_grad_(), b.requires_grad_(), gradients, index_tokens(torch.tensor(slots), torch.full((3,), 2.0))
    )
    (output * weight).sum().backward()
    torch.testing.assert_close(output, torch.stack(rows))
    torch.testing.assert_close(x.grad, wanted[0].grad)
    torch.testing.assert_close(gradients[0], wanted[1].grad)
    torch.testing.assert_close(gradients[1], wanted[2].grad)


class Checked(torch.autograd.Function):
    """StackedLoRA with the gradients that it leaves in the bank's buffers handed to autograd, for gradcheck."""

    @staticmethod
    def forward(ctx, x, a, b, index):
        ctx.save_for_backward(x, a, b)
        ctx.index = index
        return StackedLoRA.apply(x, a, b, (torch.zeros_like(a), torch.zeros_like(b)), index)

    @staticmethod
    def backward(ctx, grad):
        x, a, b = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        gradients = (torch.zeros_like(a), torch.zeros_like(b))
        with torch.enable_grad():
            output = StackedLoRA.apply(x, a, b, gradients, ctx.index)
        output.backward(grad)
        return x.grad, *gradients, None


@pytest.mark.parametrize(
    "slots", [[2, -1, 0, 2, 0, 2], [0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1], [-1, -1, -1, 2, -1, -1]]
)
def test_gradcheck(slots):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((6, 5), (3, 2, 5), (3, 2, 4))
    ]
    assert torch.autograd.gradcheck(
        Checked.apply, (*inputs, index_tokens(torch.tensor(slots), torch.full((3,), 1.7, dtype=torch.float64)))
    )


def trained_once(model, bank, slots, *, tokens=6):
    """Gradients of a made-up loss on one row of random tokens."""
    ids = torch.randint(3, 250, (1, tokens), generator=torch.Generator().manual_seed(0))
    with bank.attached(), bank.routing(torch.tensor([slots])):
        model(input_ids=ids, use_cache=False).logits.float().square().mean().backward()


def test_leaves_share_the_flat_buffers_and_idle_slots_have_exactly_zero_gradient():
    model, _ = build_tiny("llama")
    model.requires_grad_(False)
    bank = AdapterBank(model, slots=4, rank=2, alpha=4)
    bank.parameters.copy_(torch.randn(bank.parameters.shape, generator=torch.Generator().manual_seed(0)))
    trained_once(model, bank, [2, 2, -1, 0, 0, 2])
    assert bank.gradients[[0, 2]].abs().amax(dim=1).min() > 0
    assert not bank.gradients[[1, 3]].any()
    leaves = [leaf for name in bank.A for leaf in (bank.A[name], bank.B[name])]
    for flat, views in ((bank.parameters, leaves), (bank.gradients, [leaf.grad for leaf in leaves])):
        assert torch.equal(torch.cat([view.detach().flatten(1) for view in views], dim=1), flat)
        assert {view.untyped_storage().data_ptr() for view in views} == {flat.untyped_storage().data_ptr()}
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)


def test_a_half_precision_model_saves_its_inputs_as_they_are():
    model, _ = build_tiny("llama")
    model.to(torch.bfloat16).requires_grad_(False)
    bank = AdapterBank(model, slots=1, rank=2, alpha=4)
    bank.parameters.fill_(0.1)
    wide = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: (wide.append(saved.shape) if saved.dtype == torch.float32 else None, saved)[1],
        lambda saved: saved,
    ):
        trained_once(model, bank, [0] * 7, tokens=7)
    assert (7, 32) not in wide
    assert bank.gradients.dtype == torch.float32 and bank.gradients.any()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_the_optimizer_is_torchs_adamw_with_clipping_for_each_slot(weight_decay, max_norm):
    """Slots take different rates and numbers of steps: slot 1 stops early, as finished adapters do."""
    model, _ = build_tiny("llama")
    bank = AdapterBank(model, slots=2, rank=2, alpha=4, betas=(0.8, 0.95), weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(0)
    bank.parameters.copy_(torch.randn(bank.parameters.shape, generator=generator))
    alone = [nn.Parameter(row.clone()) for row in bank.parameters]
    torchs = [torch.optim.AdamW([p], betas=(0.8, 0.95), weight_decay=weight_decay) for p in alone]
    for step in range(30):
        rates = [0.02 / (step + 1), 0.05] if step < 12 else [0.02 / (step + 1)]
        for slot, rate in enumerate(rates):
            gradient = torch.randn(bank.parameters.shape[1], generator=generator) * (0.001 if step % 3 else 1.0)
            bank.gradients[slot] = gradient
            alone[slot].grad = gradient.clone()
            if max_norm:
                nn.utils.clip_grad_norm_([alone[slot]], max_norm)
            torchs[slot].param_groups[0]["lr"] = rate
            torchs[slot].step()
        bank.step(rates, max_norm=max_norm)
    assert max((bank.parameters[slot] - alone[slot]).abs().max().item() for slot in range(2)) <= 2e-6


def test_adapters_on_an_output_or_input_embedding_are_no_targets():
    plain = {target.name for target in find_targets(build_tiny("llama")[0], "all-linear")}
    options = LoraConfig(r=2, target_modules=["q_proj", "lm_head", "embed_tokens"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice on tied embeddings
        policy = get_peft_model(build_tiny("llama")[0], options).get_base_model()
    assert {target.name for target in find_targets(policy, "all-linear")} == plain


def test_the_default_targets_are_pefts():
    model, _ = build_tiny("llama")
    names = {target.name.rpartition(".")[2] for target in find_targets(model, None)}
    assert names == {"q_proj", "v_proj"}
    assert find_targets(model, None) == find_targets(model, "default") == find_targets(model, ["v_proj", "q_proj"])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "gemma2", "gemma3_text"])
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
    bank.gradients[:2].fill_(1.0)
    bank.step([0.1, 0.2], max_norm=None)
    moved = (bank.parameters - before).abs().amax(dim=1)
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.2, 0.0]), atol=1e-5, rtol=0)
    assert not bank.gradients.any()


def test_a_reset_slot_is_as_new_and_depends_on_its_seed_alone():
    model, _ = build_tiny("llama")
    bank = AdapterBank(model, slots=2, rank=2, alpha=4)
    bank.reset(0, seed=5)
    fresh = bank.parameters[0].clone()
    bank.gradients.fill_(1.0)
    bank.step([0.1], max_norm=1.0)
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
