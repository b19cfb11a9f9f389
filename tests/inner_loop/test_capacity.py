"""How many adapters fit: by the model's configuration and what is free, in fixed steps."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config

from seal_lightning.e_step.trials import in_shares
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.capacity import STEPS, Capacity, bytes_a_token, result_dtype
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob, TrainingSequence

GIB = 1 << 30
QWEN_7B = Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28)
ALL_LINEAR_R32, QUERY_VALUE_R32 = 80_740_352, 10_092_544  # parameters of an adapter of Qwen2.5-7B


def model_7b(dtype=torch.bfloat16):
    return SimpleNamespace(config=QWEN_7B, dtype=dtype)


def capacity(free, parameters, *, most=256):
    return Capacity(free=free, banks=free, parameters=parameters, token=bytes_a_token(model_7b()), result=2, most=most)


def test_a_token_of_7b_takes_about_7_mb():
    assert 6.9e6 < bytes_a_token(model_7b()) < 7.3e6
    assert bytes_a_token(model_7b(torch.float32)) > 1.7 * bytes_a_token(model_7b())


@pytest.mark.parametrize(
    ("free", "parameters", "tokens", "slots"),
    [
        (117 * GIB, ALL_LINEAR_R32, 4096, 48),  # what an H200 has beside the model
        (117 * GIB, QUERY_VALUE_R32, 4096, 256),
        (56 * GIB, ALL_LINEAR_R32, 2048, 16),  # an H100 with 80 GB
        (56 * GIB, QUERY_VALUE_R32, 2048, 128),
        (6 * GIB, QUERY_VALUE_R32, 1024, 8),  # a card of 16 GB with the model in 4 bits
    ],
)
def test_slots_and_passes_of_a_7b_model(free, parameters, tokens, slots):
    room = capacity(free, parameters)
    assert (room.pass_tokens(), room.slots(tokens=tokens)) == (tokens, slots)
    taken = slots * (18 + 3 * 2) * parameters + min(tokens, 64 * slots) * room.token
    assert taken <= free


def test_slots_go_in_steps_and_grow_with_the_memory():
    found = [capacity(free * GIB, ALL_LINEAR_R32).slots(tokens=4096) for free in range(1, 400)]
    assert found == sorted(found) and set(found) <= set(STEPS) and len(set(found)) > 8
    assert capacity(1 << 45, ALL_LINEAR_R32, most=16).slots(tokens=4096) == 16


def test_adapters_on_a_cpu_take_their_share_alone():
    each = (16 + 3 * 4) * 1000
    room = Capacity(free=GIB, banks=10 * each, parameters=1000, token=100, result=4, most=16)
    assert room.slots(tokens=4096) == 8
    assert room.results(8, tokens=4096) == (10 * each - 8 * 16 * 1000) // 4000


def test_what_is_finished_has_room_beside_what_trains():
    room = capacity(117 * GIB, ALL_LINEAR_R32)
    slots = room.slots(tokens=4096)
    results = room.results(slots, tokens=4096)
    assert 3 * slots <= results
    assert slots * 18 * ALL_LINEAR_R32 + 3072 * room.token + results * 2 * ALL_LINEAR_R32 <= 117 * GIB
    assert capacity(0, ALL_LINEAR_R32).results(8, tokens=4096) == 24  # the user's own number of slots


def test_adapters_beyond_that_are_trained_by_turns_of_the_same_size():
    assert in_shares(range(10), 4) == [range(0, 4), range(4, 8), range(8, 10)]
    assert [len(share) for share in in_shares(range(750), 256)] == [250, 250, 250]
    assert in_shares([1, 2], 256) == [[1, 2]]


def test_the_inner_loop_takes_what_fits(monkeypatch):
    model, _ = build_tiny("llama")
    loop = InnerLoop(rank=2)
    for free, slots in {1 << 40: 16, 1 << 10: 1}.items():
        monkeypatch.setattr("seal_lightning.inner_loop.capacity.free_memory", lambda device, free=free: free)
        assert loop.slots(model) == slots
    assert loop.results(model) == 3
    assert (loop.pass_tokens(model), InnerLoop(max_tokens=99).pass_tokens(model)) == (4096, 99)
    assert InnerLoop(max_adapters=7).slots(model) == 7


def test_slots_on_a_gpu_do_not_depend_on_what_torch_has_kept(monkeypatch):
    """After a first unit most of the memory is the allocator's, and none of it in use."""
    model, _ = build_tiny("llama")
    gpu = torch.device("cuda")
    monkeypatch.setattr(type(model), "device", property(lambda self: gpu))
    loop, found = InnerLoop(rank=8), []
    for kept in (0, 14 << 20):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, kept=kept: ((16 << 20) - kept, 16 << 20))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, kept=kept: kept)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        found.append((loop.slots(model), loop.pass_tokens(model), loop.results(model)))
    assert found[0] == found[1] and found[0][0] not in (1, 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finished_adapters_have_the_dtype_of_the_base(dtype, tmp_path):
    model, tokenizer = build_tiny("llama")
    policy = Policy(model.requires_grad_(False).to(dtype), tokenizer, chat=False)
    assert result_dtype(model) == dtype
    jobs = [AdapterJob((TrainingSequence(text),), seed=seed) for seed, text in enumerate(("a lamp", "a tarn", "oil"))]
    loop = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01, max_adapters=2)
    trained = loop.adapt(policy, jobs)
    assert trained.bank.parameters.dtype == dtype
    assert {tensor.dtype for tensor in bank_lora(trained.bank, 1).state.values()} == {dtype}
    half = loop.adapt(policy, jobs, until=[1, 1, 1])  # what goes on is whole
    assert {state.slot.parameters.dtype for state in half.states if state} == {torch.float32}
    whole = loop.adapt(policy, jobs, start=half.states)
    torch.testing.assert_close(whole.bank.parameters, trained.bank.parameters, atol=1e-5, rtol=0)
    ids = torch.tensor([[65, 66, 67]] * 3)
    with trained.answering([0, None, 2]), torch.no_grad():
        logits = model(input_ids=ids).logits
    assert logits.dtype == dtype and not torch.equal(logits[0], logits[1])
    trained.save(1, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
