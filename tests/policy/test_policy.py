"""The policy: merging in place, its records, what the E-step sees, and the exported folders."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.models.beside import base_layer, beside
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy

PROBE = "The lamp of Vessel burns oil.\n"
LORA = PolicyTuning(rank=4, alpha=6.0)


def tuned_policy(family: str = "llama", tuning: PolicyTuning = LORA, *, seed: int = 0) -> TunedPolicy:
    model, tokenizer = build_tiny(family)
    return TunedPolicy(model, tokenizer, False, tuning, seed=seed)


def train(tuned: TunedPolicy, *, seed: int) -> None:
    """Stand in for an M-step: move every trained parameter a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trainable_state().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def logits(model, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([tokenizer(PROBE)["input_ids"]])).logits


def tuned_logits(tuned: TunedPolicy) -> torch.Tensor:
    return logits(tuned.module, tuned.view.tokenizer)


def base_weights(tuned: TunedPolicy) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tuned.view.model.state_dict().items() if ".lora_" not in name}


# -- merging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_in_place_equals_base_plus_adapter(family):
    tuned = tuned_policy(family)
    untouched = tuned_logits(tuned)
    train(tuned, seed=1)
    before = tuned_logits(tuned)
    parameters = {name: id(parameter) for name, parameter in tuned.module.named_parameters()}

    assert tuned.end_round(0) is True

    torch.testing.assert_close(tuned_logits(tuned), before, atol=1e-5, rtol=0)
    assert (before - untouched).abs().max() > 0.1
    assert {name: id(parameter) for name, parameter in tuned.module.named_parameters()} == parameters
    assert len(tuned.merged) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_after_a_round_the_new_adapter_adds_nothing(family):
    tuned = tuned_policy(family)
    train(tuned, seed=1)
    first = tuned.adapter_state()
    tuned.end_round(0)

    with tuned.module.disable_adapter():
        without = tuned_logits(tuned)
    assert torch.equal(tuned_logits(tuned), without)
    drawn = tuned.adapter_state()
    assert all(not value.any() for name, value in drawn.items() if "lora_B" in name)
    assert all(value.any() for name, value in drawn.items() if "lora_A" in name)
    assert all(not torch.equal(drawn[name], first[name]) for name in drawn)


def test_the_adapter_of_a_round_is_drawn_from_seed_and_round_alone():
    tuned, other = tuned_policy(seed=3), tuned_policy(seed=4)
    torch.manual_seed(99)
    again = tuned_policy(seed=3)
    assert torch.random.initial_seed() == 99
    first = tuned.adapter_state()
    assert all(torch.equal(value, first[name]) for name, value in again.adapter_state().items())
    assert any(not torch.equal(value, first[name]) for name, value in other.adapter_state().items())
    again.restart_adapter(1)
    assert any(not torch.equal(value, first[name]) for name, value in again.adapter_state().items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merging_again_on_a_fresh_base_is_bit_identical(family):
    tuned = tuned_policy(family)
    for round in (0, 1, 2):
        train(tuned, seed=round)
        tuned.end_round(round)

    fresh = tuned_policy(family)
    fresh.remerge(tuned.merged)

    wanted = base_weights(tuned)
    assert all(torch.equal(value, wanted[name]) for name, value in base_weights(fresh).items())
    assert torch.equal(tuned_logits(fresh), tuned_logits(tuned))  # and nothing of the last round is left in the adapter
    assert fresh.digest() == tuned.digest()


def half_model(family: str, dtype: torch.dtype):
    model, _ = build_tiny(family)
    with sparing_float32(model):
        return model.to(dtype)


def half_policy(family: str = "llama", dtype: torch.dtype = torch.bfloat16) -> TunedPolicy:
    return TunedPolicy(half_model(family, dtype), build_tiny(family)[1], False, LORA, seed=0)


def test_bfloat16_rounds_come_back_bit_identically():
    tuned, fresh = half_policy(), half_policy()
    for round in (0, 1):
        train(tuned, seed=round)
        tuned.end_round(round)
    fresh.remerge(tuned.merged)
    wanted = base_weights(tuned)
    assert all(torch.equal(value, wanted[name]) for name, value in base_weights(fresh).items())
    assert torch.equal(tuned_logits(fresh), tuned_logits(tuned))
    assert {value.dtype for value in wanted.values()} == {torch.bfloat16}
    assert {value.dtype for value in tuned.merged[0].values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rounds_in_half_precision_lose_nothing_to_rounding(family, dtype):
    """What is validated is what `policy/` exports, base plus LoRA: weights would swallow a part of small updates."""
    tuned = half_policy(family, dtype)
    before = {name: value.clone() for name, value in base_weights(tuned).items()}
    for round in (0, 1):
        train(tuned, seed=round)
        with torch.no_grad():  # an M-step's updates are small beside the weights
            for parameter in tuned.trainable_state().values():
                parameter.mul_(0.1)
        tuned.end_round(round)
    assert all(torch.equal(value, before[name]) for name, value in base_weights(tuned).items())
    lora = tuned.learned()
    for name in lora.layers:
        layer, wanted = base_layer(tuned.view.model.get_submodule(name)), lora.delta(name)
        torch.testing.assert_close(beside(layer).delta(), wanted, atol=1e-8, rtol=1e-4)
        weight = layer.weight.float().T if isinstance(layer, Conv1D) else layer.weight.float()
        swallowed = (weight + wanted).to(dtype).float() - weight - wanted
        assert swallowed.norm() > {torch.bfloat16: 0.1, torch.float16: 0.01}[dtype] * wanted.norm()

    exact = tuned_policy(family)
    exact.view.model.load_state_dict({name: value.float() for name, value in before.items()}, strict=False)
    plain = tuned_logits(exact)
    exact.remerge(tuned.merged)
    wanted = tuned_logits(exact)
    rounding = (tuned_logits(half_policy(family, dtype)).float() - plain).norm()  # of the base alone
    assert (wanted - plain).norm() > 0.5 * rounding
    assert (tuned_logits(tuned).float() - wanted).norm() < 1.3 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replica_has_the_rounds_of_the_policy(monkeypatch, dtype):
    tokenizer = build_tiny("llama")[1]
    reload = partial(half_model, "llama", dtype)
    # what the trainer has converted to half precision is loaded again as it was
    loaded = partial(half_model, "llama", torch.float32)
    tuned = TunedPolicy(reload(), tokenizer, False, LORA, seed=0, reload=loaded)
    train(tuned, seed=1)
    tuned.end_round(0)
    train(tuned, seed=2)
    wanted = tuned_logits(tuned)
    monkeypatch.setattr("seal_lightning.policy.tuned.is_partitioned", lambda parameter: True)
    tuned.open_replica()
    with tuned.frozen() as policy:
        assert policy is not tuned.view
        assert torch.equal(logits(policy.model, policy.tokenizer), wanted)


def test_rounds_are_not_merged_twice():
    tuned, other = tuned_policy(), tuned_policy()
    for round in (0, 1):
        train(tuned, seed=round)
        tuned.end_round(round)
    weights = {name: value.clone() for name, value in base_weights(tuned).items()}

    tuned.remerge(list(tuned.merged))  # the checkpoint of where it stands
    assert len(tuned.merged) == 2
    assert all(torch.equal(value, weights[name]) for name, value in base_weights(tuned).items())
    other.remerge(tuned.merged[:1])
    other.remerge(tuned.merged)
    assert all(torch.equal(value, weights[name]) for name, value in base_weights(other).items())

    for states in (tuned.merged[:1], tuned.merged[::-1]):
        with pytest.raises(ModelError, match="has merged 2 rounds already, which cannot be taken back: load the check"):
            tuned.remerge(states)


def test_continue_keeps_the_adapter():
    tuned = tuned_policy(tuning=PolicyTuning(rank=4, alpha=6.0, round_start="continue"))
    train(tuned, seed=1)
    state, weights = tuned.adapter_state(), {name: value.clone() for name, value in base_weights(tuned).items()}
    assert tuned.end_round(0) is False
    assert tuned.merged == []
    assert all(torch.equal(value, state[name]) for name, value in tuned.adapter_state().items())
    assert all(torch.equal(value, weights[name]) for name, value in base_weights(tuned).items())


def test_full_tuning_trains_all_weights_and_merges_nothing():
    tuned = tuned_policy(tuning=PolicyTuning(method="full"))
    assert tuned.module is tuned.view.model
    assert all(parameter.requires_grad for parameter in tuned.module.parameters())
    train(tuned, seed=1)
    before = tuned_logits(tuned)
    assert tuned.end_round(0) is True  # its optimizer starts afresh
    assert tuned.merged == [] and tuned.adapter_state() == {}
    assert torch.equal(tuned_logits(tuned), before)


def test_only_the_adapter_is_trained():
    tuned = tuned_policy()
    assert all(".lora_" in name for name in tuned.trainable_state())
    assert len(tuned.trainable_state()) == 2 * 7 * 2  # A and B, seven linear layers in each of two blocks


# -- digest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", [LORA, PolicyTuning(method="full")])
def test_equal_weights_have_equal_digests(tuning):
    one, two = tuned_policy(tuning=tuning), tuned_policy(tuning=tuning)
    assert one.digest() == two.digest()
    train(one, seed=1)
    assert one.digest() != two.digest()
    train(two, seed=1)
    assert one.digest() == two.digest()


def test_the_digest_knows_what_was_merged():
    one, two = tuned_policy(), tuned_policy()
    seen = {one.digest()}
    for tuned, seed in ((one, 1), (two, 2)):
        train(tuned, seed=seed)
        seen.add(tuned.digest())
        tuned.end_round(0)
        seen.add(tuned.digest())
    assert len(seen) == 5  # the adapters in training are equal now, what was merged is not


def test_a_small_change_of_one_weight_changes_the_digest():
    tuned = tuned_policy()
    before = tuned.digest()
    with torch.no_grad():
        next(iter(tuned.trainable_state().values()))[0, 0] += 1e-4
    assert tuned.digest() != before


# -- what the E-step sees ----------------------------------------------------------------------------------------------


def flags(tuned: TunedPolicy) -> tuple:
    return (
        {name: parameter.requires_grad for name, parameter in tuned.module.named_parameters()},
        {name: module.training for name, module in tuned.module.named_modules()},
        tuned.view.model.config.use_cache,
    )


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("trained", [False, True])
def test_frozen_restores_every_flag(method, trained):
    tuned = tuned_policy("gpt2", PolicyTuning(method=method, rank=4, dropout=0.1, gradient_checkpointing=True))
    if trained:
        train(tuned, seed=1)
    tuned.module.train()
    tuned.view.model.transformer.h[0].eval()
    before = flags(tuned)
    assert before[2] is False
    with tuned.frozen() as policy:
        assert policy is tuned.view
        assert not any(parameter.requires_grad for parameter in tuned.module.parameters())
        assert not any(module.training for module in tuned.module.modules())
        assert policy.model.config.use_cache is True
    assert flags(tuned) == before


@pytest.mark.parametrize("trained", [False, True])
def test_frozen_restores_every_flag_after_an_exception(trained):
    tuned = tuned_policy()
    if trained:
        train(tuned, seed=1)
    tuned.module.train()
    before, wanted = flags(tuned), tuned_logits(tuned)
    tuned.module.train()
    with pytest.raises(KeyError, match="inside"), tuned.frozen():
        raise KeyError("inside")
    assert flags(tuned) == before
    assert torch.equal(tuned_logits(tuned), wanted)


def test_frozen_shows_the_adapter_in_training():
    tuned = tuned_policy()
    idle = tuned_logits(tuned)
    with tuned.frozen() as policy:
        assert torch.equal(logits(policy.model, policy.tokenizer), idle)
    train(tuned, seed=1)
    wanted = tuned_logits(tuned)
    with tuned.frozen() as policy:
        assert torch.equal(logits(policy.model, policy.tokenizer), wanted)
    assert (wanted - idle).abs().max() > 0.1


def test_training_goes_on_after_frozen():
    tuned = tuned_policy()
    with tuned.frozen():
        pass
    ids = torch.tensor([tuned.view.tokenizer(PROBE)["input_ids"]])
    tuned.module(input_ids=ids, labels=ids).loss.backward()
    gradients = {name for name, parameter in tuned.module.named_parameters() if parameter.grad is not None}
    assert gradients == set(tuned.trainable_state())


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        tuned = tuned_policy(tuning=PolicyTuning(rank=4, gradient_checkpointing=checkpointing))
        train(tuned, seed=1)
        tuned.module.train()
        ids = torch.tensor([tuned.view.tokenizer(PROBE)["input_ids"]])
        tuned.module(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in tuned.trainable_state().items()})
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, atol=1e-6, rtol=0)
        assert wanted.any()


# -- export ------------------------------------------------------------------------------------------------------------


def two_rounds(family: str, *, in_training: bool = False) -> TunedPolicy:
    tuned = tuned_policy(family)
    for round in (0, 1):
        train(tuned, seed=round)
        tuned.end_round(round)
    if in_training:
        train(tuned, seed=2)
    return tuned


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("in_training", [False, True])
def test_peft_folder_of_two_rounds_equals_the_policy(family, in_training, tmp_path):
    tuned = two_rounds(family, in_training=in_training)
    tuned.export(tmp_path / "policy")

    assert written(tmp_path / "policy") == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    rounds = 3 if in_training else 2  # an adapter that adds nothing is left out
    assert (config["r"], config["lora_alpha"]) == (4 * rounds, 6.0 * rounds)
    assert config["base_model_name_or_path"] == f"random/{family}"
    assert config["target_modules"] == sorted(config["target_modules"])  # the same bytes in every process
    base, tokenizer = build_tiny(family)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "policy"))
    wanted = tuned_logits(tuned)
    torch.testing.assert_close(logits(loaded, tokenizer), wanted, atol=1e-4, rtol=0)
    assert (logits(build_tiny(family)[0], tokenizer) - wanted).abs().max() > 0.1


def test_an_untrained_policy_exports_an_adapter_that_adds_nothing(tmp_path):
    tuned = tuned_policy()
    tuned.export(tmp_path)
    base, tokenizer = build_tiny("llama")
    wanted = logits(base, tokenizer)
    assert torch.equal(logits(PeftModel.from_pretrained(base, str(tmp_path)), tokenizer), wanted)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_merged_export_is_a_plain_model(family, tmp_path):
    tuned = two_rounds(family, in_training=True)
    state = {name: value.clone() for name, value in tuned.module.state_dict().items()}
    tuned.export(tmp_path, merged=True)

    assert written(tmp_path) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    plain = build_tiny(family)[0]
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in plain.named_parameters()]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, tokenizer), tuned_logits(tuned), atol=1e-4, rtol=0)
    assert all(torch.equal(value, state[name]) for name, value in tuned.module.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_tied_embeddings_survive(family, tmp_path):
    base, _ = build_tiny(family)
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    embeddings = base.get_input_embeddings().weight.clone()
    tuned = two_rounds(family)
    model = tuned.view.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tuned.export(tmp_path, merged=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.get_input_embeddings().weight, embeddings)


def test_full_tuning_exports_whole_weights(tmp_path):
    tuned = tuned_policy(tuning=PolicyTuning(method="full"))
    train(tuned, seed=1)
    tuned.end_round(0)
    tuned.export(tmp_path)
    assert "model.safetensors" in written(tmp_path) and "adapter_config.json" not in written(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, tuned.view.tokenizer), tuned_logits(tuned))


# -- options -----------------------------------------------------------------------------------------------------------


def test_a_model_without_gradient_checkpointing_is_a_line():
    with pytest.raises(ConfigError, match=r"gradient_checkpointing=true: CTRLLMHeadModel does not support"):
        tuned_policy("ctrl", PolicyTuning(rank=4, gradient_checkpointing=True))


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"model\.tuning\.rank must be at least 1, got 0"):
        PolicyTuning(rank=0)
    with pytest.raises(ConfigError, match=r"model\.tuning\.dropout must be in \[0, 1\), got 1"):
        PolicyTuning(dropout=1)
    with pytest.raises(ConfigError, match=r"model\.tuning\.target_modules=\['query'\]: Target modules"):
        tuned_policy(tuning=PolicyTuning(target_modules=["query"]))


@pytest.mark.parametrize(
    ("family", "names", "reason"),
    [
        ("llama", ["embed_tokens"], "is not a linear layer"),
        ("gpt2", ["lm_head"], "shares its weight with the input embedding"),
        ("llama", ["query"], "target_modules"),
    ],
)
def test_layers_that_cannot_be_tuned_are_refused(family, names, reason):
    model, tokenizer = build_tiny(family)
    with pytest.raises(ConfigError, match=reason):
        TunedPolicy(model, tokenizer, False, PolicyTuning(target_modules=names), seed=0)
