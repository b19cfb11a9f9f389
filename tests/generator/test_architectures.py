"""What the three architectures share: shapes, a start that changes nothing, bounds, and gradients that are those of the
loss."""

import pytest
import torch
from tiny_generator import TEXTS, policy_of

from seal_lightning.errors import ConfigError
from seal_lightning.generator.base import flat_rows
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.mlp import MLPGenerator
from seal_lightning.generator.perceiver import Perceiver
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.through_bank import losses_through, make_bank
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence
from seal_lightning.models.random_models import build_tiny

MADE = {
    "fast weights": lambda **more: FastWeights(rank=3, alpha=4.0, layers=(0, -1), **more),
    "fast weights of own inputs": lambda **more: FastWeights(rank=3, alpha=4.0, layers=None, **more),
    "perceiver": lambda **more: Perceiver(rank=3, alpha=4.0, width=8, heads=2, layers=(0, -1), **more),
    "mlp": lambda **more: MLPGenerator(rank=3, alpha=4.0, size=5, width=8, **more),
}
every_architecture = pytest.mark.parametrize("make", MADE.values(), ids=MADE)


@every_architecture
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_adapters_have_the_shapes_of_the_layers(make, family):
    policy = policy_of(make(), family)
    adapters = policy.network(read_for(policy, TEXTS))
    bank = make_bank(policy.network.settings, policy.model, slots=3, trainable=False)
    assert list(adapters) == [target.name for target in bank.targets]
    for target in bank.targets:
        A, B = adapters[target.name]
        assert A.shape == (3, 3, target.inputs) and B.shape == (3, 3, target.outputs)
        assert A.dtype == B.dtype == torch.float32
    assert flat_rows(adapters, list(bank.A), bank.width).shape == bank.parameters.shape
    changes = torch.stack(list(policy.network.changes(adapters).values()))
    assert (changes > 1e-4).all() and (changes.std(dim=1) > 0).all()  # another change for each text


@every_architecture
def test_nothing_is_changed_at_first(make):
    policy = policy_of(make(), awake=False)
    for A, B in policy.network(read_for(policy, TEXTS)).values():
        assert A.any() and not B.any()


@every_architecture
def test_weights_come_from_the_seed_alone(make):
    model, _ = build_tiny("llama")
    before = torch.get_rng_state()
    one, same, other = (make().network(model, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@every_architecture
def test_weights_are_float32_beside_a_model_in_bfloat16(make):
    model, tokenizer = build_tiny("llama")
    model = model.bfloat16().requires_grad_(False).eval()
    policy = GeneratingPolicy(model, tokenizer, False, network=make().network(model, seed=0))
    assert {parameter.dtype for parameter in policy.network.parameters()} == {torch.float32}
    adapters = policy.network(read_for(policy, TEXTS))
    assert {matrix.dtype for pair in adapters.values() for matrix in pair} == {torch.float32}


@every_architecture
def test_a_text_gets_the_same_adapter_beside_a_longer_one(make):
    policy = policy_of(make())
    together = policy.network(read_for(policy, TEXTS))
    for number, text in enumerate(TEXTS):
        alone = policy.network(read_for(policy, [text]))
        for name, matrices in alone.items():
            for matrix, among in zip(matrices, together[name], strict=True):
                torch.testing.assert_close(matrix[0], among[number], rtol=1e-4, atol=1e-5)


@every_architecture
def test_a_change_stays_within_its_bound(make):
    free = policy_of(make())
    changes = free.network.changes(free.network(read_for(free, TEXTS)))
    bound = float(torch.stack(list(changes.values())).detach().median())
    bounded = policy_of(make(bound=bound))
    held = bounded.network.changes(bounded.network(read_for(bounded, TEXTS)))
    for name, change in changes.items():
        torch.testing.assert_close(held[name], change.clamp(max=bound), rtol=1e-4, atol=1e-6)


@every_architecture
def test_drift_is_the_mean_squared_change(make):
    policy = policy_of(make(drift=0.5))
    adapters = policy.network(read_for(policy, TEXTS))
    weights = {name: policy.model.get_submodule(name).weight for name in adapters}
    for number, drift in enumerate(policy.network.drift(adapters)):
        shares = [4 / 3 * (B[number].T @ A[number]).norm() / weights[name].norm() for name, (A, B) in adapters.items()]
        torch.testing.assert_close(drift, 0.5 * torch.stack(shares).square().mean(), rtol=1e-4, atol=1e-7)


@every_architecture
def test_gradients_through_the_bank_are_those_of_finite_differences(make):
    policy = policy_of(make())
    network, reading = policy.network, read_for(policy, TEXTS)
    bank = make_bank(network.settings, policy.model, slots=3, trainable=True)
    loss = HeadLoss(policy.model, adapted=set(bank.A))
    draw = torch.Generator().manual_seed(2)
    sequences = [PackedSequence(slot, torch.randint(5, 60, (9,), generator=draw).tolist(), 2, 1.0) for slot in range(3)]

    def total():
        rows = flat_rows(network(reading), list(bank.A), bank.width)
        return losses_through(bank, rows, sequences, loss).sum()

    total().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        direction = torch.nn.functional.normalize(parameter.grad.flatten(), dim=0).view_as(parameter)
        slope = float((parameter.grad * direction).sum())
        step = min(1e-2, 0.01 / slope)
        with torch.no_grad():
            parameter += step * direction
            above = float(total())
            parameter -= 2 * step * direction
            below = float(total())
            parameter += step * direction
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=0.05, abs=2e-3), name


REFUSED = {
    "layers must name": [lambda: MLPGenerator(layers=()), lambda: Perceiver(layers=()), lambda: FastWeights(layers=())],
    "reach must be above 0, got 0": [lambda: MLPGenerator(reach=0)],
    "size must be a whole number of at least 1, got 0": [lambda: MLPGenerator(size=0)],
    "keys must be a whole number of at least 1, got 0": [lambda: FastWeights(keys=0)],
    "normalisation must be frobenius or orthogonal, got 'svd'": [lambda: FastWeights(normalisation="svd")],
    "heads must divide the width of 64, got 5": [lambda: Perceiver(heads=5)],
    "blocks must be a whole number of at least 1, got 0": [lambda: Perceiver(blocks=0)],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(message):
    for make in REFUSED[message]:
        with pytest.raises(ConfigError, match=rf"^model\.generator\..*{message}") as refused:
            make()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [MLPGenerator, FastWeights, Perceiver])
def test_a_layer_that_the_model_has_not_is_named(make):
    model, _ = build_tiny("llama")
    depth = model.config.num_hidden_layers
    with pytest.raises(ConfigError, match=rf"layers must be between {-depth - 1} and {depth}, .* got {depth + 1}$"):
        make(layers=[depth + 1]).network(model, seed=0)
