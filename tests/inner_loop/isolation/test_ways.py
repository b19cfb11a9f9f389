"""What the probes cannot see on a few tokens, or could miss: windows, masks of fixed size, and changing embeddings."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.isolation.probing import COARSE
from seal_lightning.inner_loop.isolation.training import _alike_in_each, _alike_in_norm
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import linear_layers, parts_without_adapter
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate, generate_all
from seal_lightning.types import AdapterJob, TrainingSequence

TEXT = "The lamp of the tarn burned until dawn and oil ran out in the copper mill. " * 2


SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def build(family: str, **sizes):
    config = AutoConfig.for_model(family, **SIZES, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)


def frozen(family: str, **options):
    model, tokenizer = build_tiny(family, **options)
    return model.requires_grad_(False), tokenizer


def long_rope(original: int):
    """A Phi-3 whose rotary frequencies change for rows of more than `original` tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": original}
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [3.0, 5.0, 8.0, 12.0]}
    return build(
        "phi3",
        intermediate_size=48,
        max_position_embeddings=4 * original,
        original_max_position_embeddings=original,
        rope_parameters=rope | factors,
    )


def compressing(**sizes):
    """A DeepSeek-V4, whose attention sums up the tokens of blocks that are counted from the row's beginning."""
    return build(
        "deepseek_v4",
        head_dim=8,
        sliding_window=16,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        q_lora_rank=16,
        o_lora_rank=16,
        o_groups=2,
        hc_mult=2,
        layer_types=["heavily_compressed_attention", "compressed_sparse_attention"],
        index_n_heads=2,
        index_head_dim=8,
        **sizes,
    )


@torch.no_grad()
def greedy(model, ids: list[int], steps: int) -> list[int]:
    row = list(ids)
    for _ in range(steps):
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(ids) :]


def test_rows_that_outgrow_their_rotary_embeddings_are_read_anew():
    model, tokenizer = long_rope(64), byte_tokenizer()
    policy = Policy(model, tokenizer, chat=False)
    prompts = [policy.encode(TEXT[:length]) for length in (52, 60, 20, 80)]
    expected = [greedy(model, prompt, 24) for prompt in prompts]
    assert all(1 not in row for row in expected), "the test needs rows that go on"
    found = generate_all(policy, prompts, size=4, max_new_tokens=24)
    assert [text for text, _ in found] == [
        policy.decode(row, prompt=prompt) for row, prompt in zip(expected, prompts, strict=True)
    ]


@pytest.mark.parametrize("positions", [10, 16, 24, 2048])
def test_a_short_window_hides_nothing_from_the_probes(positions):
    found = {}
    for family in ("llama", "mamba", "bloom"):
        model, _ = frozen(family, max_positions=positions)
        layers = [layer.name for layer in linear_layers(model)]
        found[family] = (str(training_way(model, layers)), str(answering_way(model, layers)))
    assert found == {
        "llama": ("packed", "padded on the left"),
        "mamba": ("padded", "only with rows of the same length"),
        "bloom": ("padded", "padded on the left"),
    }


@pytest.mark.parametrize("family", ["gpt_neo", "gptj"])
def test_a_packed_row_is_no_longer_than_the_masks_that_a_model_keeps(family):
    """Eight sequences of 31 tokens, 248 in all, on a model whose window is 64."""
    loop = InnerLoop(rank=4, alpha=8, target_modules="all-linear", epochs=1, batch_size=4, learning_rate=1e-2)
    jobs = [
        AdapterJob(tuple(TrainingSequence(TEXT[at : at + 30]) for at in range(4 * number, 4 * number + 4)), seed=number)
        for number in range(2)
    ]
    states = []
    for max_tokens in (4096, 1):
        model, tokenizer = frozen(family, max_positions=64)
        trained = replace(loop, max_tokens=max_tokens).adapt(Policy(model, tokenizer, chat=False), jobs)
        assert training_way(model, list(trained.bank.A), longest=31).rows == "packed by transformers"
        states.append([bank_lora(trained.bank, number).state for number in range(2)])
    for together, alone in zip(*states, strict=True):
        largest = max(value.abs().max().item() for name, value in alone.items() if ".lora_B." in name)
        assert largest > 1e-3
        assert max((together[name] - alone[name]).abs().max().item() for name in alone) <= 1e-3 * largest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_hides_no_leak_and_takes_no_fast_way_away(dtype):
    """Rounding sends some tokens of dots1 to other experts, which no way of sharing passes is to blame for."""
    found = {}
    for family in ("llama", "bloom", "falcon-alibi", "gpt_oss", "mamba", "dots1"):
        model, _ = frozen(family)
        layers = [layer.name for layer in linear_layers(model.to(dtype))]
        found[family] = (str(training_way(model, layers)), str(answering_way(model, layers)))
    assert found == {
        "llama": ("packed", "padded on the left"),
        "bloom": ("padded", "padded on the left"),
        "falcon-alibi": ("padded", "padded on the left"),
        "gpt_oss": ("padded", "padded on the left"),
        "mamba": ("padded", "only with rows of the same length"),
        "dots1": ("packed", "padded on the left"),
    }


def test_where_rounding_is_coarse_a_leak_is_told_from_it_by_the_norm():
    """Rounding lets single entries of a deep model's gradients in bfloat16 differ by half of the largest one."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 4000, generator=generator)
    rounded = reference + 0.05 * torch.randn(2, 4000, generator=generator)
    rounded[0, 7] = 1.4 * reference[0].abs().max()
    leaking = reference.roll(1, dims=0) * 0.5 + reference
    layer = slice(0, 1000)
    assert _alike_in_norm(rounded, reference, layer, COARSE)
    assert not _alike_in_each(rounded, reference, layer, COARSE)
    assert not _alike_in_norm(leaking, reference, layer, COARSE)
    elsewhere = reference.clone()
    elsewhere[:, 1000:] = leaking[:, 1000:]
    assert not _alike_in_norm(elsewhere, reference, layer, COARSE)


@pytest.mark.parametrize("rate", [8, 128])
def test_attention_that_sums_tokens_up_shares_no_rows_also_where_the_probe_is_too_short_to_see_it(rate):
    model = compressing(compress_rates={"heavily_compressed_attention": rate, "compressed_sparse_attention": 4})
    layers = [layer.name for layer in linear_layers(model)]
    assert str(training_way(model, layers, longest=300)) == "padded"
    assert str(answering_way(model, layers, longest=300)) == "only with rows of the same length"
    policy = Policy(model, byte_tokenizer(), chat=False)
    prompts = [policy.encode(TEXT[:length]) for length in (20, 122, 130)]
    found = generate_all(policy, prompts, size=3, max_new_tokens=12)
    for prompt, (text, tokens) in zip(prompts, found, strict=True):
        assert text == policy.decode(greedy(model, prompt, 12)[:tokens], prompt=prompt)


def test_a_layer_that_is_linear_in_its_class_alone_gets_no_adapter():
    model = compressing()
    assert parts_without_adapter(model)["they return more than their product"] == [
        "model.layers.0.self_attn.o_a_proj",
        "model.layers.1.self_attn.o_a_proj",
    ]


# -- prompts that several rows share -----------------------------------------------------------------------------------


def passes(model, work) -> list[tuple[int, ...]]:
    """The shapes of the tokens that the model reads meanwhile."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, options: seen.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    work()
    handle.remove()
    return seen


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mamba", "falcon_h1"])
def test_a_prompt_is_read_once_for_all_rows_that_it_begins(family):
    model, tokenizer = frozen(family)
    policy = Policy(model, tokenizer, chat=False)
    prompts = [policy.encode(text) for text in ("a lamp", "oil on it", "a lamp", "a lamp", "oil on it")]
    if answering_way(model).rows == "equal":
        prompts = [prompt[:6] for prompt in prompts]
    own = [[11 * row + step + 3 for step in range(6)] for row in range(5)]
    logits = {}

    def follow(shared):
        def choose(scores, rows, texts):
            logits.setdefault(shared, []).append(scores)
            return torch.tensor([own[row][len(texts[row])] if len(texts[row]) < 2 + row else 1 for row in rows])

        return generate(policy, prompts, max_new_tokens=6, choose=choose, way=answering_way(model), shared=shared)

    once, each = (passes(model, lambda shared=shared: follow(shared)) for shared in (True, False))
    assert once[0][0] == 2 and each[0][0] == 5 and once[1:] == each[1:]
    for mine, theirs in zip(logits[True], logits[False], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_rows_with_adapters_of_their_own_read_their_prompts_themselves():
    model, tokenizer = frozen("llama")
    policy = Policy(model, tokenizer, chat=False)
    jobs = [AdapterJob((TrainingSequence(text),), seed=seed) for seed, text in enumerate(("a lamp", "oil"))]
    trained = InnerLoop(rank=2, alpha=16.0, epochs=6, learning_rate=0.05).adapt(policy, jobs)
    prompts = [policy.encode("a lamp")] * 3
    together = generate_all(policy, prompts, size=3, max_new_tokens=8, adapters=trained, jobs=[0, 1, None])
    alone = [
        generate_all(policy, prompts[:1], size=1, max_new_tokens=8, adapters=trained, jobs=[job])[0]
        for job in (0, 1, None)
    ]
    assert together == alone and len(set(alone)) > 1


def test_a_cache_that_rows_cannot_be_taken_from_is_made_anew(monkeypatch):
    model, tokenizer = frozen("llama")
    policy = Policy(model, tokenizer, chat=False)
    prompts = [policy.encode(text) for text in ("a lamp", "oil on it", "a lamp")]
    expected = generate(policy, prompts, max_new_tokens=5)
    monkeypatch.setattr("seal_lightning.inner_loop.isolation.rows.CachedRows.may_leave", False)
    assert generate(policy, prompts, max_new_tokens=5, shared=True) == expected
