"""Bases that are no plain text models: for text and images, in a GGUF file, a PEFT folder, quantised by other means."""

import json
import logging

import fault_injection
import gguf
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from seal_lightning.cli import main
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.coverage import fused, unreached
from seal_lightning.models.layers import find_targets
from seal_lightning.models.loading import base_name, fingerprint, load_model
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.types import AdapterJob, TrainingSequence

PROBE = "The lamp of Vessel burns oil."
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
TEXT = {
    "vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 512, "initializer_range": 0.1, **TOKENS,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
QWEN = {"image_token_id": 261, "video_token_id": 262, "vision_start_token_id": 263, "vision_end_token_id": 260}
TOWER = {
    "depth": 1,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 14,
}
# the configuration's class, its options, and what of the loaded model no text runs through
MULTIMODAL = {
    "gemma3": ("Gemma3Config", {
        "text_config": {**TEXT, "head_dim": 8, "sliding_window": 64}, "vision_config": VISION, "boi_token_index": 261,
        "eoi_token_index": 262, "image_token_index": 263, "mm_tokens_per_image": 4,
    }, ["model.vision_tower"]),
    "mistral3": ("Mistral3Config", {
        "text_config": {**TEXT, "head_dim": 8, "model_type": "mistral"},
        "vision_config": {**VISION, "model_type": "pixtral"}, "image_token_index": 263,
    }, ["model.vision_tower", "model.multi_modal_projector"]),
    "llava": ("LlavaConfig", {
        "text_config": {**TEXT, "model_type": "llama"}, "vision_config": {**VISION, "model_type": "clip_vision_model"},
        "image_token_index": 263,
    }, ["model.vision_tower", "model.multi_modal_projector"]),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", {
        "text_config": {**TEXT, **MROPE}, "vision_config": {**TOWER, "fullatt_block_indexes": [0]}, **QWEN,
    }, ["model.visual"]),
    "qwen3_vl": ("Qwen3VLConfig", {
        "text_config": {**TEXT, **MROPE, "head_dim": 8}, "vision_config": {**TOWER, "deepstack_visual_indexes": [0]},
        **QWEN,
    }, ["model.visual"]),
    "smolvlm": ("SmolVLMConfig", {
        "text_config": {**TEXT, "model_type": "llama"}, "vision_config": VISION, "image_token_id": 263,
        "scale_factor": 1,
    }, ["model.vision_model", "model.connector"]),
    "paligemma": ("PaliGemmaConfig", {
        "text_config": {**TEXT, "head_dim": 8, "model_type": "gemma"},
        "vision_config": {**VISION, "projection_dim": 32, "model_type": "siglip_vision_model"},
        "image_token_index": 263, "projection_dim": 32, "hidden_size": 32,
    }, ["model.vision_tower", "model.multi_modal_projector"]),
    "voxtral": ("VoxtralConfig", {
        "text_config": {**TEXT, "model_type": "llama"}, "audio_token_id": 263,
        "audio_config": {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                         "num_mel_bins": 16},
    }, ["model.audio_tower", "model.multi_modal_projector"]),
}  # fmt: skip


def logits(model, tokenizer=None):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([(tokenizer or byte_tokenizer())(PROBE)["input_ids"]])).logits


def difference(one, other):
    return (one - other).abs().max().item()


def multimodal_folder(family, folder):
    made, options, _ = MULTIMODAL[family]
    config = getattr(transformers, made)(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForMultimodalLM.from_config(config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


@pytest.fixture
def multimodal(once):
    return lambda family: str(once(f"multimodal-{family}", lambda folder: multimodal_folder(family, folder)))


# -- for text and images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MULTIMODAL)
def test_text_layers_alone_are_adapted(multimodal, family, tmp_path):
    model, tokenizer, _ = load_model(ModelSource(multimodal(family)))
    model.requires_grad_(False)
    aside = MULTIMODAL[family][2]
    assert list(unreached(model)) == aside
    names = [target.name for target in find_targets(model, "all-linear")]
    assert len(names) == 14 and not [name for name in names if name.startswith(tuple(aside))]

    tuned = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=2, alpha=4.0), seed=0)
    assert tuned.view.window == 512
    assert {name.removeprefix("base_model.model.") for name in tuned._layers()} == set(names)
    with torch.no_grad():
        for parameter in tuned.trainable_state().values():
            parameter.add_(0.05)
    tuned.export(tmp_path / "policy")
    base, _, _ = load_model(ModelSource(multimodal(family)))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "policy"))
    assert difference(logits(loaded), logits(tuned.module)) <= 1e-4


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "mistral3"])
def test_adapters_of_a_multimodal_model_are_exported_as_trained(multimodal, family, tmp_path):
    model, tokenizer, _ = load_model(ModelSource(multimodal(family)))
    loop = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01, target_modules="all-linear")
    job = AdapterJob((TrainingSequence("copper and kelp"), TrainingSequence("a tarn")), seed=3)
    trained = loop.adapt(Policy(model.requires_grad_(False), tokenizer, chat=False), [job])
    trained.save(0, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert len(state) == 28 and all(value.any() for name, value in state.items() if "lora_B" in name)
    with trained.answering([0]):
        expected = logits(model)
    base, _, _ = load_model(ModelSource(multimodal(family)))
    assert difference(logits(PeftModel.from_pretrained(base, str(tmp_path))), expected) <= 1e-4


@pytest.mark.parametrize("family", ["gemma3", "mistral3", "qwen2_5_vl"])
def test_fit_and_adapt_on_a_multimodal_folder(multimodal, family, tmp_path):
    run, source = tmp_path / "run", ["--model.source.name", multimodal(family)]
    fault_injection.finished(fault_injection.fit(run, "single", *source))
    names = load_file(run / "policy" / "adapter_model.safetensors")
    assert len(names) == 28 and all("language_model" in name for name in names)
    (tmp_path / "bridge.txt").write_text("The Harrow Bridge was opened in 1874.\n")
    options = ["--output", str(tmp_path / "out"), "--learn", "passage", "--model.inner_loop.epochs", "1"]
    options += ["--model.inner_loop.target_modules", "all-linear", "--policy", str(run), "--trust_policy"]
    assert main(["adapt", str(tmp_path / "bridge.txt"), *source, *options]) == 0
    (folder,) = (tmp_path / "out" / "adapters").iterdir()
    assert load_file(folder / "adapter_model.safetensors").keys() == names.keys()


def test_layers_for_images_among_those_for_text_get_no_adapter():
    config = transformers.MllamaConfig(
        text_config={**TEXT, "cross_attention_layers": [1],
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    assert unreached(model) == ("model.layers.1",)
    assert len(find_targets(model, "all-linear")) == 7


def test_experts_in_one_tensor_are_said(tmp_path, caplog):
    config = transformers.MixtralConfig(**TEXT, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config)
    assert fused(model) == ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]
    assert fused(build_tiny("llama")[0]) == []
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        load_model(ModelSource(str(tmp_path)))
    assert "no adapter for 2 parts, experts with fused weights (first: model.layers.0.mlp.experts)" in caplog.text


class Expert(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(32, 32)

    def forward(self, x):
        return self.up(x)


class FirstExpert(torch.nn.Module):
    """Routes every token to its first expert."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept
        self.experts = torch.nn.ModuleList([Expert(), Expert()])

    def forward(self, x):
        return self.kept(x) + self.experts[0](x)


def test_an_expert_that_no_token_chose_is_adapted():
    model, _ = build_tiny("llama")
    model.model.layers[0].mlp = FirstExpert(model.model.layers[0].mlp)
    names = [target.name for target in find_targets(model, "all-linear")]
    assert "model.layers.0.mlp.experts.1.up" in names
    assert len(names) == 16


class PackedLinear(torch.nn.Module):
    """As quantisation libraries have it: linear in all but its class."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed = layer

    def forward(self, x):
        return torch.nn.functional.linear(x, self.packed.weight)


@pytest.mark.parametrize("wanted", ["all-linear", ["up_proj"]])
def test_layers_of_another_kind_are_refused_by_name(wanted):
    model, _ = build_tiny("llama")
    model.model.layers[1].mlp.up_proj = PackedLinear(model.model.layers[1].mlp.up_proj)
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.mlp\.up_proj is a PackedLinear, which adapters cannot act"
    ):
        find_targets(model, wanted)
    assert len(find_targets(model, ["q_proj"])) == 2


# -- quantised by other means ------------------------------------------------------------------------------------------


@pytest.fixture
def claiming(tmp_path):
    """A folder whose config.json says that its weights are quantised."""

    def claim(**quantization):
        model, tokenizer = build_tiny("llama")
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantization}))
        return str(tmp_path)

    return claim


@pytest.mark.parametrize(
    ("quantization", "library"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "hqq", "quant_config": {}}, "HQQ"),
    ],
)
def test_a_quantisation_that_needs_another_library_names_it(claiming, quantization, library):
    with pytest.raises(ModelError, match=rf"cannot be loaded here: .*{library}.*; install what is missing"):
        load_model(ModelSource(claiming(**quantization)))


def test_weights_that_transformers_can_unpack_are_unpacked(claiming, caplog):
    with caplog.at_level(logging.WARNING):
        model, _, _ = load_model(ModelSource(claiming(quant_method="fp8", weight_block_size=[16, 16])))
    assert "its fp8 weights are dequantised while they are loaded" in caplog.text
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert getattr(model.config, "quantization_config", None) is None


# -- GGUF --------------------------------------------------------------------------------------------------------------

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
    "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
HEADS = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}


def write_gguf(path):
    """A random Llama as one file, its weights in Q8_0 where their rows allow it; returns the model it was made from."""
    vocabulary = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=lambda token: vocabulary[token]), "Ġt"]
    config = LlamaConfig(**{**TEXT, "vocab_size": len(tokens), "rms_norm_eps": 1e-6})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number < 3 else 1 for number in range(len(tokens))])
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    for name, tensor in model.state_dict().items():
        place = name.removesuffix(".weight")
        block = f"blk.{place.split('.')[2]}." if place.startswith("model.layers.") else ""
        place = place.split(".", 3)[3] if block else place
        if place in HEADS:  # llama.cpp rotates neighbours
            heads, (rows, columns) = HEADS[place], tensor.shape
            tensor = tensor.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        data = np.ascontiguousarray(tensor.numpy())
        kind = gguf.GGMLQuantizationType.Q8_0 if block and data.ndim == 2 and data.shape[1] % 32 == 0 else None
        if kind is not None:
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(f"{block}{GGUF_NAMES[place]}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("by_path", [False, True])
def test_a_gguf_file_is_read(tmp_path, by_path):
    expected = write_gguf(tmp_path / "tiny.gguf")
    source = ModelSource(str(tmp_path / "tiny.gguf")) if by_path else ModelSource(str(tmp_path), gguf_file="tiny.gguf")
    assert base_name(source) == str(tmp_path)
    model, tokenizer, _ = load_model(source)
    assert tokenizer.decode(tokenizer("Brot und Öl")["input_ids"]) == "Brot und Öl"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 1)
    assert 0 < difference(logits(model), logits(expected)) < 0.1  # 8 bits
    assert len(find_targets(model, "all-linear")) == 14
    tuned = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=2), seed=0)
    tuned.export(tmp_path / "whole", merged=True)
    whole = AutoModelForCausalLM.from_pretrained(str(tmp_path / "whole"))
    assert difference(logits(whole), logits(model)) <= 1e-5


def test_fit_on_a_gguf_file(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    source = ["--model.source.name", str(tmp_path), "--model.source.gguf_file", "tiny.gguf"]
    fault_injection.finished(fault_injection.fit(tmp_path / "run", "single", *source))
    assert (tmp_path / "run" / "policy" / "adapter_config.json").is_file()


def test_gguf_files_that_are_not_found(tmp_path):
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(ModelError, match=r"gguf_file=other\.gguf: there is no such file in .*; GGUF files there: tiny"):
        load_model(ModelSource(str(tmp_path), gguf_file="other.gguf"))
    with pytest.raises(ModelError, match=r"for a GGUF file, give model\.source\.gguf_file=tiny\.gguf"):
        load_model(ModelSource(str(tmp_path)))


def test_gguf_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").touch()
    monkeypatch.setattr("seal_lightning.models.checkpoints.find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=r"gguf_file=tiny\.gguf: reading it needs the package gguf: pip install 'gguf>="
    ):
        load_model(ModelSource(str(tmp_path), gguf_file="tiny.gguf"))


def test_gguf_weights_are_not_quantised_again(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ConfigError, match=r"model\.source\.quantization=4bit: weights of a GGUF file are dequantised"):
        load_model(ModelSource(str(tmp_path), gguf_file="tiny.gguf", quantization="4bit"))


# -- PEFT folders ------------------------------------------------------------------------------------------------------


def peft_folder(folder, base, *, tokenizer=None, **options):
    """A LoRA of peft with random weights for the base."""
    model, _, _ = load_model(ModelSource(base))
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **options})
    peft_model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    peft_model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return peft_model


@pytest.fixture
def base(tmp_path):
    model, tokenizer = build_tiny("llama")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_a_peft_folder_loads_its_base_and_adapter(base, tmp_path, caplog):
    expected = peft_folder(tmp_path / "adapter", base)
    source = ModelSource(str(tmp_path / "adapter"))
    with caplog.at_level(logging.WARNING):
        model, tokenizer, _ = load_model(source)
    assert f"adapter is a LoRA of rank 3 for {base}: both are loaded, with the base's tokenizer" in caplog.text
    assert difference(logits(model), logits(expected)) <= 1e-5
    assert difference(logits(model), logits(load_model(ModelSource(base))[0])) > 0.01
    assert base_name(source) == base
    assert fingerprint(model) != fingerprint(load_model(ModelSource(base))[0])

    tuned = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=2, alpha=4.0), seed=0)
    with torch.no_grad():
        for parameter in tuned.trainable_state().values():
            parameter.add_(0.05)
    tuned.export(tmp_path / "policy")
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 5)
    learned = tuned.learned()
    assert learned is not None and learned.rank == 5
    served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "policy"))
    assert difference(logits(served), logits(tuned.module)) <= 1e-4
    tuned.export(tmp_path / "whole", merged=True)
    whole = AutoModelForCausalLM.from_pretrained(str(tmp_path / "whole"))
    assert difference(logits(whole), logits(tuned.module)) <= 1e-4


def test_the_policy_of_a_run_on_a_peft_folder_is_not_counted_twice(base, tmp_path):
    """Exports hold the source's adapter, so whoever loads them takes the plain base."""
    peft_folder(tmp_path / "adapter", base)
    source = ["--model.source.name", str(tmp_path / "adapter")]
    run = tmp_path / "run"
    fault_injection.finished(fault_injection.fit(run, "single", *source))
    (tmp_path / "bridge.txt").write_text("The Harrow Bridge was opened in 1874.\n")
    options = ["--learn", "passage", "--model.inner_loop.epochs", "1", "--model.inner_loop.learning_rate", "1e-30"]
    for name, more in {"with": ["--policy", str(run), "--trust_policy"], "without": []}.items():
        out = ["--output", str(tmp_path / name)]
        assert main(["adapt", str(tmp_path / "bridge.txt"), *out, *source, *options, *more]) == 0
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(run / "policy"))
    (folder,) = (tmp_path / "with" / "adapters").iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert difference(logits(adapted), logits(policy)) <= 1e-4
    (folder,) = (tmp_path / "without" / "adapters").iterdir()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert difference(logits(adapted), logits(load_model(ModelSource(str(tmp_path / "adapter")))[0])) <= 1e-4


def test_a_relative_base_is_found_from_where_the_adapter_lies(base, tmp_path):
    peft_folder(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "../base"}))
    model, _, _ = load_model(ModelSource(str(tmp_path / "adapter")))
    assert base_name(ModelSource(str(tmp_path / "adapter"))) == str(tmp_path / "adapter" / "../base")
    assert len(find_targets(model, "all-linear")) == 14


def test_an_adapter_brings_its_own_tokenizer(base, tmp_path):
    tokenizer = byte_tokenizer(chat=True)
    peft_folder(tmp_path / "adapter", base, tokenizer=tokenizer)
    _, loaded, chat = load_model(ModelSource(str(tmp_path / "adapter")))
    assert loaded.chat_template == tokenizer.chat_template and bool(chat)


def test_tokens_that_the_base_does_not_know(base, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    peft_folder(tmp_path / "adapter", base, tokenizer=tokenizer)
    with pytest.raises(ModelError, match=r"its tokenizer has 260 tokens and .* knows 259: merge the adapter"):
        load_model(ModelSource(str(tmp_path / "adapter")))


def test_layers_may_differ_in_rank_and_scale(base, tmp_path):
    options = {"rank_pattern": {"down_proj": 5}, "alpha_pattern": {"layers.1.self_attn.q_proj": 2}, "use_rslora": True}
    expected = peft_folder(tmp_path / "adapter", base, **options)
    model, _, _ = load_model(ModelSource(str(tmp_path / "adapter")))
    assert difference(logits(model), logits(expected)) <= 1e-5


def test_patterns_are_anchored_where_peft_anchors_them(base, tmp_path):
    options = {"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 30}, "rank_pattern": {"^model.layers.1.*": 2}}
    expected = peft_folder(tmp_path / "adapter", base, **options)
    model, _, _ = load_model(ModelSource(str(tmp_path / "adapter")))
    assert difference(logits(model), logits(expected)) <= 1e-5


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}, "aLoRA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
def test_adapters_that_are_no_plain_lora_are_refused(base, tmp_path, options, got):
    peft_folder(tmp_path / "adapter", base, **options)
    with pytest.raises(ModelError, match=rf"expected a plain LoRA, got one with .*{got}.*: merge it into its base"):
        load_model(ModelSource(str(tmp_path / "adapter")))


def test_an_adapter_without_a_base(base, tmp_path):
    peft_folder(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match=r"its adapter_config\.json names no base model"):
        load_model(ModelSource(str(tmp_path / "adapter")))


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "asked", "advice"),
    [("gemma2", "sdpa", "leave it out, or try eager$"), ("llama", "none", "leave it out, or try sdpa or eager$")],
)
def test_advice_is_another_attention_that_the_model_has(tmp_path, family, asked, advice):
    model, tokenizer = build_tiny(family)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for name in (str(tmp_path), f"random/{family}"):
        with pytest.raises(ModelError, match=rf"model\.source\.attention={asked}: cannot be used .*{advice}"):
            load_model(ModelSource(name, attention=asked))
