"""Layers whose forward pass is replaced for a while."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.products import replaced_forward
from seal_lightning.models.random_models import build_tiny

IDS = torch.arange(7)[None]


def random_bank(model, **options):
    bank = AdapterBank(model, slots=1, rank=4, alpha=4.0, **options)
    bank.parameters.copy_(torch.randn(bank.parameters.shape, generator=torch.Generator().manual_seed(0)) / 10)
    return bank


def replaced(model):
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("find_way", [answering_way, training_way])
def test_a_model_can_be_probed_while_adapters_are_at_work(find_way):
    model = build_tiny("llama")[0].requires_grad_(False)
    bank = random_bank(model)
    trained = TrainedBank(bank, ())
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        with trained.answering([0]):
            adapted = model(input_ids=IDS).logits
        with trained.answering([0]):
            find_way(model, list(bank.A))
            assert torch.equal(model(input_ids=IDS).logits, adapted)
        assert not replaced(model)
        assert torch.equal(model(input_ids=IDS).logits, plain)


def test_layers_are_themselves_again_where_replacing_them_was_interrupted():
    model = build_tiny("llama")[0].requires_grad_(False)
    layers = [layer.self_attn.q_proj for layer in model.model.layers]

    class Interrupted(dict):
        def items(self):
            yield layers[0], torch.relu
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replaced_forward(Interrupted(dict.fromkeys(layers, torch.relu))):
        pass
    assert not replaced(model)


def layer_of(model):
    """A layer whose input needs a gradient, since there is an adapter before it."""
    return model.model.layers[1].self_attn.q_proj


def adapted_output(bank, layer, x):
    """By a layer, with its adapter; and what the adapter alone gives."""
    with bank.attached(), bank.routing(torch.tensor([0])):
        mine = layer(x)
    name = next(target.name for target in bank.targets if target.module is layer)
    return mine, x @ bank.A[name][0].T @ bank.B[name][0]


def sigmoid_by_hook(layer):
    layer.register_forward_hook(lambda module, args, output: torch.sigmoid(output))


def sigmoid_by_forward(layer):
    layer.forward = lambda x: torch.sigmoid(functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("change", [sigmoid_by_hook, sigmoid_by_forward])
def test_an_adapter_comes_after_what_someone_has_made_of_a_layer(change):
    """As with peft, whose layer is around the changed one; and the tensors that their backward pass needs stay."""
    model = build_tiny("llama")[0].requires_grad_(False)
    bank, layer = random_bank(model), layer_of(model)
    change(layer)
    x = torch.randn(1, 5, layer.in_features, requires_grad=True)
    before = torch.sigmoid(functional.linear(x, layer.weight, layer.bias))
    mine, delta = adapted_output(bank, layer, x)
    assert torch.allclose(mine, before + delta, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(mine.sum(), x)
    (wanted,) = torch.autograd.grad((before + delta).sum(), x)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-5)


def test_layers_can_be_called_by_the_name_of_their_argument():
    model = build_tiny("llama")[0].requires_grad_(False)
    bank, x = random_bank(model, target_modules=["q_proj"]), torch.randn(1, 3, 32)
    attention = model.model.layers[0].self_attn
    plain = attention.k_proj(x)
    with bank.attached(), bank.routing(torch.tensor([0])):
        assert torch.equal(attention.q_proj(input=x), attention.q_proj(x))
        assert torch.allclose(attention.k_proj(input=x), plain, rtol=0, atol=1e-5)


class PackedWeight(torch.Tensor):
    """As torchao's: in an `nn.Linear`, says it is float32, and knows one product only."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=torch.float32)

    def __init__(self, weight):
        self.numbers = weight.bfloat16()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is functional.linear:
            x, weight, *bias = args
            return functional.linear(x, weight.numbers.float(), *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(func))


@pytest.mark.parametrize("head", [False, True])
def test_packed_weights_are_multiplied_by_their_own_library(head):
    model = build_tiny("llama")[0].requires_grad_(False)
    for module in model.modules():
        if type(module) is nn.Linear and (head or module is not model.get_output_embeddings()):
            module.weight = nn.Parameter(PackedWeight(module.weight.detach().clone()), requires_grad=False)
    assert training_way(model, [f"model.layers.{number}.self_attn.q_proj" for number in range(2)]).rows == "packed"
