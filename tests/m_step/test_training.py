"""The M-step as a GPU would run it: everything on its device, no waiting within a step, and attention without plans."""

from contextlib import contextmanager

import pytest
import torch

from seal_lightning.m_step import training
from seal_lightning.m_step.batches import MStep, encode_taught, make_loader
from seal_lightning.m_step.objectives import Taught
from seal_lightning.m_step.training import FineTuning, make_optimizer, seed_batch
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.types import EditOutcome

KEPT = [
    EditOutcome("lamp", number, "The lamp of Vessel.\n", text, 1.0, 1.0, 1.0, 1, 0.0)
    for number, text in enumerate(["It burns oil.", "It stands in a tower by the sea.", "It is lit."])
]
SETTINGS = MStep(epochs=1, batch_size=1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_a_step_mixes_no_devices_and_no_types_and_we_wait_for_nothing(monkeypatch, family):
    """On `meta`, as on a GPU, a tensor of the CPU does not fit; nothing can be read from there, so nothing waits."""
    # transformers itself asks the device once a forward pass whether the mask says anything
    monkeypatch.setattr("transformers.masking_utils._ignore_causal_mask_sdpa", lambda *args, **kwargs: True)
    model, tokenizer = build_tiny(family)
    with sparing_float32(model):
        model.to(torch.bfloat16)
    policy = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=4, alpha=8.0), seed=0)
    policy.module.to("meta")
    optimizer = make_optimizer(policy.module.parameters(), SETTINGS, device=torch.device("meta"))
    taught = encode_taught(policy.view, [Taught((edit,)) for edit in KEPT], settings=SETTINGS)
    for batch in make_loader(taught, pad=2, settings=SETTINGS, seed=0, round=0):
        there = {name: tensor.to("meta") for name, tensor in batch.items()}
        loss, _ = SETTINGS.goal.batch_loss(policy.module.train(), there)
        loss.backward()
        optimizer.step()
    trained = policy.trainable_state()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert loss.device.type == "meta"
    assert {(value.grad.device.type, value.grad.dtype) for value in trained.values()} == {("meta", torch.float32)}
    assert {(value.device.type, value.dtype) for value in moments} == {("meta", torch.float32)}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_of_it_goes_without_plans_for_attention(monkeypatch, checkpointing):
    inside, seen = [], []

    @contextmanager
    def noted(device):
        inside.append(device)
        yield
        inside.clear()

    monkeypatch.setattr(training, "planless_attention", noted)
    model, tokenizer = build_tiny("llama")
    tuning = PolicyTuning(rank=4, alpha=8.0, gradient_checkpointing=checkpointing)
    policy = TunedPolicy(model, tokenizer, False, tuning, seed=0)
    model.model.layers[0].self_attn.register_forward_hook(lambda *args: seen.append(bool(inside)))
    losses = FineTuning(SETTINGS).train(policy, KEPT, round=0)
    assert len(losses) == 3 and seen == [True] * (6 if checkpointing else 3) and inside == []


def test_dropout_is_seeded_on_the_policys_own_gpu(monkeypatch):
    current, seeded = [0], []

    @contextmanager
    def on(device):
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append((current[-1], seed)))
    before = torch.get_rng_state()
    seed_batch(1, 0, 2, device=torch.device("cuda", 3))
    torch.set_rng_state(before)
    assert [index for index, _ in seeded] == [3]
