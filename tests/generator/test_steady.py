"""The direction in which a layer's inputs are alike: what reads it hardly tells tokens apart."""

import torch

from seal_lightning.generator import MLPGenerator
from seal_lightning.generator.steady import steady_directions
from seal_lightning.models.layers import find_targets
from seal_lightning.models.random_models import build_tiny


def steadiness(x, direction):
    """Mean by standard deviation of what a direction reads."""
    read = x @ direction
    return float(read.mean() / read.std())


def test_it_reads_much_the_same_of_any_token():
    model, _ = build_tiny("llama")
    targets = find_targets(model, ["down_proj"])
    seen = {}
    for target in targets:
        target.module.register_forward_pre_hook(lambda module, args, name=target.name: seen.update({name: args[0]}))
    steady = steady_directions(model, targets)
    with torch.no_grad():
        model(torch.randint(3, 259, (20, 30), generator=torch.Generator().manual_seed(7)))  # other tokens
    draw = torch.Generator().manual_seed(1)
    for target in targets:
        x, direction = seen[target.name].flatten(0, 1), steady[target.name]
        torch.testing.assert_close(direction.norm(), torch.tensor(1.0))
        others = [abs(steadiness(x, torch.randn(target.inputs, generator=draw))) for _ in range(50)]
        assert steadiness(x, direction) > max(others) and steadiness(x, direction) > 1.0
    again = steady_directions(model, targets)
    assert all(torch.equal(steady[name], again[name]) for name in steady)


def test_a_steady_generator_reads_one_direction_of_each_layer():
    model, _ = build_tiny("llama")
    settings = MLPGenerator(rank=3, target_modules=["down_proj"], steady=True)
    network = settings.network(model.requires_grad_(False), seed=0)
    steady = steady_directions(model, settings.targets(model))
    adapters = network.adapters(torch.ones(2, settings.size))
    assert set(adapters) == set(steady)
    for name, (A, B) in adapters.items():
        assert torch.equal(A, steady[name].expand(2, 3, -1)) and bool(B.any())
    assert not torch.equal(*MLPGenerator(rank=2, target_modules=["down_proj"]).network(model, seed=0).into[0])
