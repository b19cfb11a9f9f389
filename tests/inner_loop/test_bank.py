"""The bank's parts: routing, gradients, targets, the optimizer's slots, and a policy that carries an adapter."""

import warnings
from itertools import groupby

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.bank import AdaptedLinear, AdapterBank, StackedLoRA
from seal_lightning.inner_loop.isolation import TrainingWay
from seal_lightning.inner_loop.layouts import Blocks, Matrices, Padded, Slices
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import LengthGroup, PackedSequence, pack_in_groups
from seal_lightning.inner_loop.routing import Shelf, index_groups, index_tokens
from seal_lightning.models.layers import find_targets
from seal_lightning.models.random_models import build_tiny


def layouts(slots):
    """Every way to lay out these tokens that a CPU can compute: by name."""
    scales, cpu = [1.5, 2.0, 3.0], torch.device("cpu")
    found = {
        "torch's grouped product": index_tokens(torch.tensor(slots), Shelf(scales, cpu, grouped=True)),
        "padded": index_tokens(torch.tensor(slots), Shelf(scales, cpu, grouped=False)),
        "one scale": index_tokens(torch.tensor(slots), Shelf([2.0] * 3, cpu, grouped=False)),
    }
    if min(slots) >= 0:  # each run of tokens as a block, the long ones first
        runs = [(slot, len(list(some))) for slot, some in groupby(slots)]
        groups = [LengthGroup(length, (slot,)) for slot, length in runs]
        found["blocks"] = index_groups(groups, Shelf(scales, cpu, grouped=False))
    return found


SLOTS = [
    [2, -1, 0, 2, 0, 2],
    [0, 0, 1, 1, 2, 2],
    [1, 1, 1, 1, 1, 1],
    [-1, -1, -1, 2, -1, -1],
    [2, 0, 2, 0, 0, 1],
    [0, 0, 0, 1, 2, 2],
]


def test_the_layout_is_the_cheapest_that_the_tokens_allow():
    kinds = [type(layouts(slots)["torch's grouped product"]) for slots in SLOTS]
    assert kinds == [Slices, Blocks, Blocks, Slices, Slices, Slices]
    assert isinstance(layouts(SLOTS[0])["padded"], Padded)
    index = layouts(SLOTS[0])["torch's grouped product"]
    assert (index.order.tolist(), index.ends.tolist()) == ([2, 4, 0, 3, 5], [2, 5])
    assert index.scales.flatten().tolist() == [1.5, 1.5, 3.0, 3.0, 3.0]
    assert layouts([0, 0, 1, 1, 1, 2])["torch's grouped product"].slots.where == slice(0, 3)  # no copy of the matrices


@pytest.mark.parametrize("slots", SLOTS)
def test_every_layout_gives_output_and_gradients_of_the_plain_formula(slots):
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(*shape, generator=generator) for shape in ((6, 8), (3, 4, 8), (3, 4, 12)))
    weight = torch.randn(6, 12, generator=generator)
    for name, index in layouts(slots).items():
        scales = [2.0] * 3 if name == "one scale" else [1.5, 2.0, 3.0]
        wanted = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
        rows = [
            (wanted[0][t] @ wanted[1][slot].T @ wanted[2][slot]) * scales[slot] if slot >= 0 else torch.zeros(12)
            for t, slot in enumerate(slots)
        ]
        (torch.stack(rows) * weight).sum().backward()
        matrices = Matrices(a, b, torch.zeros_like(a), torch.zeros_like(b))
        given = x.clone().requires_grad_()
        output = StackedLoRA.apply(given, a.clone().requires_grad_(), matrices, index)
        (output * weight).sum().backward()
        for mine, other in zip(
            (output, given.grad, matrices.grad_A, matrices.grad_B),
            (torch.stack(rows), *(t.grad for t in wanted)),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, msg=lambda text, name=name: f"{name}: {text}")


class Checked(torch.autograd.Function):
    """A layer's function with the gradients that it leaves in the bank's buffers handed to autograd, for gradcheck."""

    @staticmethod
    def forward(ctx, x, a, b, weight, bias, index):
        ctx.save_for_backward(x, a, b, weight, bias)
        ctx.index = index
        return AdaptedLinear.apply(x, weight, bias, a, Matrices(a, b, torch.zeros_like(a), torch.zeros_like(b)), index)

    @staticmethod
    def backward(ctx, grad):
        x, a, b = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[:3])
        matrices = Matrices(a.detach(), b.detach(), torch.zeros_like(a), torch.zeros_like(b))
        with torch.enable_grad():
            output = AdaptedLinear.apply(x, *ctx.saved_tensors[3:], a, matrices, ctx.index)
        output.backward(grad)
        return x.grad, matrices.grad_A, matrices.grad_B, None, None, None


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("how", ["padded", "one scale", "blocks"])
def test_gradcheck(slots, how):
    index = layouts(slots).get(how)
    if index is None:
        return  # some tokens have no adapter
    if isinstance(blocks := getattr(index, "blocks", index), Blocks) and not isinstance(blocks.scales, float):
        for scale in blocks.scales:
            scale.data = scale.double()
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 5), (3, 2, 5), (3, 2, 4))
    inputs = [torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    frozen = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((4, 5), (4,))]
    assert torch.autograd.gradcheck(Checked.apply, (*inputs, *frozen, index))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_layers_output_is_no_view_that_autograd_would_copy(family):
    """Qwen2's q, k and v have a bias, with which torch's own linear layer returns a view."""
    model, _ = build_tiny(family)
    model.requires_grad_(False)
    bank = AdapterBank(model, slots=1, rank=2, alpha=4)
    seen, layers = set(), {target.module for target in bank.targets}

    def watch(module, args, output):  # every module: a layer with a hook of its own takes another way
        if module in layers:
            seen.add(output.grad_fn.name())

    with register_module_forward_hook(watch):
        trained_once(model, bank, [0] * 6)
    assert seen == {"AdaptedLinearBackward"}
    assert not any("forward" in vars(target.module) for target in bank.targets)  # the class's own again


@pytest.mark.parametrize(("fast", "precision", "width"), [(False, torch.float32, 4), (True, torch.bfloat16, 8)])
def test_adapters_of_a_half_precision_model_multiply_as_the_processor_does_best(monkeypatch, fast, precision, width):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": fast}, raising=False)
    model, _ = build_tiny("llama")
    model.to(torch.bfloat16).requires_grad_(False)
    bank = AdapterBank(model, slots=1, rank=2, alpha=4)
    assert (bank.precision, bank.width) == (precision, width)
    bank.parameters.fill_(0.1)
    products = products_of(lambda: trained_once(model, bank, [0] * 7, tokens=7))
    assert {dtype for shape, dtype in products if bank.width in shape[1:]} == {precision}
    assert bank.gradients.any()


def test_gradients_stay_float32_under_the_trainers_autocast():
    model, _ = build_tiny("llama")
    model.requires_grad_(False)
    way = TrainingWay("packed")
    bank = AdapterBank(model, slots=2, rank=2, alpha=4)
    bank.parameters.fill_(0.1)
    batch = pack_in_groups([PackedSequence(slot, [5, 6, 7, 8], 0, 1.0) for slot in range(2)])
    with torch.autocast("cpu", dtype=torch.bfloat16), bank.attached():
        loss = HeadLoss(model, adapted=set(bank.A))
        products = products_of(lambda: way.backward(bank, loss, batch))
    assert {dtype for shape, dtype in products if bank.width in shape[1:]} == {torch.float32}
    assert torch.bfloat16 in {dtype for _, dtype in products}  # the frozen model's


def products_of(work):
    """Shapes and dtypes of the matrix products made in some work."""
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm_, torch.ops.aten.mm):
                seen.append((tuple(out.shape), out.dtype))
            return out

    with Products():
        work()
    return seen


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


def test_a_step_that_was_not_to_be_made_says_nothing_about_the_next():
    bank = AdapterBank(build_tiny("llama")[0], slots=1, rank=2, alpha=4)
    bank.reset(0, seed=0)
    before = bank.parameters.clone()
    for sound, moves in [(torch.tensor(False), False), (torch.tensor(True), True), (torch.tensor(False), True)]:
        bank.gradients.fill_(1.0)
        bank.step([0.1], max_norm=None, sound=sound)
        assert torch.equal(bank.parameters, before) is not moves
    made = bank.parameters.clone()
    bank.gradients.fill_(1.0)
    bank.step([0.1], max_norm=None)
    assert not torch.equal(bank.parameters, made)
    assert float(bank.take(0).optimizer["step"]) == 2


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


def test_a_policys_adapter_that_is_switched_off_costs_no_step_of_its_own():
    """As in the E-step, where what was learnt is in the weights and the new adapter adds nothing."""
    model, _ = build_tiny("llama")
    plain = AdapterBank(model.requires_grad_(False), slots=2, rank=2, alpha=4)
    drawn = torch.randn(plain.parameters.shape, generator=torch.Generator().manual_seed(0)) / 10
    plain.parameters.copy_(drawn)
    trained_once(model, plain, [0, 0, 0, 1, 1, 1])
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    wrapped.requires_grad_(False)
    below = wrapped.get_base_model()
    bank = AdapterBank(below, slots=2, rank=2, alpha=4)
    bank.parameters.copy_(drawn)
    layers, seen = {target.module for target in bank.targets}, set()

    def watch(module, args, output):
        if module in layers:
            seen.add(output.grad_fn.name())

    with register_module_forward_hook(watch), wrapped.disable_adapter():
        trained_once(below, bank, [0, 0, 0, 1, 1, 1])
    assert seen == {"AdaptedLinearBackward"}
    assert torch.equal(bank.gradients, plain.gradients)
    bank.clear_gradients()
    trained_once(below, bank, [0, 0, 0, 1, 1, 1])  # and where it is in force, both act
    assert (bank.gradients - plain.gradients).abs().max() > 1e-6
