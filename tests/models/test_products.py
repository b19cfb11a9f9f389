"""Layers whose forward pass is replaced for a while."""

import pytest
import torch

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
