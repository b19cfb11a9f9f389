"""Boosting: in each adapter the layers of the largest change are multiplied, after the bound."""

import pytest
import torch

from seal_lightning.errors import ConfigError
from seal_lightning.generator import FastWeights, MLPGenerator, Perceiver
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.models.random_models import build_tiny

TEXTS = ["the old mill", "a river runs by the gate, and by the mill"]


def made(form, **options):
    """Adapters of two texts by a network whose parameters are all drawn, and the network."""
    model, tokenizer = build_tiny("llama")
    network = form(rank=2, alpha=3.0, **options).network(model.requires_grad_(False).eval(), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
        reading = read_for(GeneratingPolicy(model, tokenizer, False, network=network), TEXTS)
        return network(reading), network


@pytest.mark.parametrize("form", [FastWeights, Perceiver, MLPGenerator])
def test_the_largest_changes_of_each_adapter_are_multiplied(form):
    plain, network = made(form, bound=0.1)
    boosted, _ = made(form, bound=0.1, boosted_layers=3, boost=2.5)
    before, after = network.changes(plain), network.changes(boosted)
    for number in range(len(TEXTS)):
        factors = {name: round((after[name] / change)[number].item(), 3) for name, change in before.items()}
        largest = sorted(before, key=lambda name: before[name][number].item(), reverse=True)
        assert sorted(factors.values()) == [1.0] * (len(factors) - 3) + [2.5] * 3
        least = min(before[name][number] for name, factor in factors.items() if factor > 1)
        assert least >= before[largest[3]][number] - 1e-7
    assert max(change.max() for change in after.values()) > 0.1 + 1e-6  # the bound is for what is boosted


def test_without_it_nothing_is_boosted():
    plain, network = made(FastWeights)
    again = network.boosted(plain, layers=len(plain), factor=1.0)
    assert all(torch.equal(plain[name][1], B) for name, (_, B) in again.items())


@pytest.mark.parametrize("form", [FastWeights, Perceiver, MLPGenerator])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boosted_layers": -1}, r"model\.generator\.boosted_layers must be a whole number of at least 0, got -1"),
        ({"boosted_layers": 2, "boost": 0}, r"model\.generator\.boost must be above 0, got 0"),
        ({"boosted_layers": 2}, "boosted_layers and boost belong together, got 2 layers and a boost of 1.0"),
        ({"boost": 2.0}, "boosted_layers and boost belong together, got 0 layers and a boost of 2.0"),
        ({"boosted_layers": 2, "boost": float("nan")}, r"model\.generator\.boost must be above 0, got nan"),
    ],
)
def test_bad_options_are_named(form, options, words):
    with pytest.raises(ConfigError, match=words):
        form(**options)


def test_no_more_layers_than_there_are():
    settings = FastWeights(target_modules=["down_proj"], boosted_layers=3, boost=2.0)
    with pytest.raises(ConfigError, match="boosted_layers must be at most 2, the layers with adapters, got 3"):
        settings.network(build_tiny("llama")[0], seed=0)
