"""What adapter folders call their layers: their last parts where these name exactly the layers that were trained."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer

from seal_lightning.models.layers import linear_layers
from seal_lightning.models.lora import LoRA, save_lora, target_names
from seal_lightning.models.random_models import build_tiny

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def drawn(model, names=None) -> LoRA:
    torch.manual_seed(0)
    state = {}
    for target in linear_layers(model):
        if names is None or target.name in names:
            state[f"base_model.model.{target.name}.lora_A.weight"] = torch.randn(2, target.inputs)
            state[f"base_model.model.{target.name}.lora_B.weight"] = torch.randn(target.outputs, 2)
    return LoRA(state, 0.5)


def written(folder: Path) -> list[str]:
    return json.loads((folder / "adapter_config.json").read_text())["target_modules"]


def adapted(model: PeftModel) -> list[str]:
    prefix = "base_model.model."
    return sorted(n.removeprefix(prefix) for n, module in model.named_modules() if isinstance(module, LoraLayer))


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", LLAMA),
        ("mixtral", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("gpt2", ["c_attn", "c_fc", "c_proj"]),
        ("gpt_neox", ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
        ("opt-projected", ["fc1", "fc2", "k_proj", "out_proj", "project_in", "project_out", "q_proj", "v_proj"]),
        ("phi3", ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
    ],
)
def test_peft_adapts_the_same_layers_and_computes_the_same(tmp_path, family, expected):
    model, _ = build_tiny(family)
    lora = drawn(model)
    save_lora(lora, tmp_path, model=model)
    assert written(tmp_path) == expected
    check_loaded(tmp_path, family, lora)


def check_loaded(folder: Path, family: str, lora: LoRA) -> None:
    """peft adapts those layers, and computes what it does where the folder has their full names."""
    ids = torch.arange(3, 20)[None]
    logits = []
    for names in (None, lora.layers):
        if names:
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": names}))
        model, _ = build_tiny(family)
        loaded = PeftModel.from_pretrained(model, str(folder)).eval()
        assert adapted(loaded) == lora.layers
        logits.append(loaded(ids).logits)
    assert torch.equal(*logits)
    plain, _ = build_tiny(family)
    assert not torch.allclose(logits[0], plain.eval()(ids).logits, atol=1e-2)


def test_some_layers_of_a_kind_go_by_their_full_names(tmp_path):
    model, _ = build_tiny("llama")
    chosen = [name for name in drawn(model).layers if "layers.0." in name or name.endswith("down_proj")]
    lora = drawn(model, chosen)
    save_lora(lora, tmp_path, model=model)
    assert written(tmp_path)[0] == "down_proj"
    assert written(tmp_path)[1:] == [name for name in chosen if not name.endswith("down_proj")]
    check_loaded(tmp_path, "llama", lora)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_vision_tower_with_layers_of_the_same_names_is_left_alone(tmp_path, family):
    model, _ = build_tiny(family)
    lora = drawn(model)
    save_lora(lora, tmp_path, model=model)
    assert "gate_proj" in written(tmp_path)
    assert "q_proj" not in written(tmp_path)
    assert not any("vision" in name for name in written(tmp_path))
    check_loaded(tmp_path, family, lora)


def test_a_model_that_carries_an_adapter_is_named_the_same():
    model, _ = build_tiny("llama")
    layers = drawn(model).layers
    before = target_names(model, layers)
    PeftModel(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    assert target_names(model, layers) == before == LLAMA
