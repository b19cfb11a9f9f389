"""Tiny models: every family runs, weights follow from the seed alone, and the tokenizer gives back any text."""

import pytest
import torch

from seal_lightning.errors import ConfigError
from seal_lightning.models.random_models import FAMILIES, build_tiny

TEXTS = ["", "plain", "  two  spaces\n\ttab ", "Zürich – 東京 🙂", "don 't , .", "\x00\x7f"]


def test_the_families():
    assert {"llama", "qwen3", "gpt2", "bloom", "gpt_oss", "mamba", "jamba", "deepseek_v3", "gemma3"} <= set(FAMILIES)
    assert len(FAMILIES) > 100


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba2", "gemma3"])
def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone(family):
    before = torch.get_rng_state()
    first, second, other = (build_tiny(family, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_two_layers_in_evaluation_mode(family):
    model, tokenizer = build_tiny(family, max_positions=64)
    assert not model.training
    text = model.config.get_text_config()
    assert model.config.model_type.startswith(FAMILIES[family].model_type)  # qwen3_5 loads as its text model
    assert text.max_position_embeddings == 64
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    logits = model(input_ids=torch.tensor([tokenizer("A lamp")["input_ids"]])).logits
    assert logits.shape == (1, 6, len(tokenizer)) and bool(logits.isfinite().all())


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(text):
    _, tokenizer = build_tiny("llama")
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text
    assert len(tokenizer) == 259


def test_the_chat_template_is_there_when_asked_for():
    assert build_tiny("llama")[1].chat_template is None
    _, tokenizer = build_tiny("llama", chat=True)
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<user>\nHi<eos>\n<assistant>\n"
    assert tokenizer(text)["input_ids"].count(tokenizer.eos_token_id) == 1


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"random/llamma: unknown family, expected llama.*docs/reference/families.md"):
        build_tiny("llamma")
    with pytest.raises(ConfigError, match=r"random/xyz: unknown family, expected llama, qwen3, gpt2 or another"):
        build_tiny("xyz")
