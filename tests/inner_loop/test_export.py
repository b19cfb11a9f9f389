"""Adapters as PEFT folders and back; equal logits after `PeftModel.from_pretrained` are in test_families."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from seal_lightning.errors import ModelError
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.export import adapter_state, load_adapter, save_adapter
from seal_lightning.models.random_models import build_tiny


def drawn_bank(family="llama", *, rank=4, alpha=8.0, target_modules="all-linear"):
    """Two slots in which A and B are both random."""
    bank = AdapterBank(build_tiny(family)[0], slots=2, rank=rank, alpha=alpha, target_modules=target_modules)
    bank.parameters.copy_(torch.randn(bank.parameters.shape, generator=torch.Generator().manual_seed(0)))
    return bank


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_goes_into_any_slot(family, tmp_path):
    bank = drawn_bank(family)
    save_adapter(bank, 0, tmp_path)
    bank.gradients.fill_(1.0)
    bank.step([0.1, 0.1], max_norm=None)  # slot 1 now has optimizer state
    load_adapter(bank, 1, tmp_path)
    assert torch.equal(bank.parameters[1], drawn_bank(family).parameters[0])
    fresh = drawn_bank(family)
    load_adapter(fresh, 1, tmp_path)
    for each in (bank, fresh):
        each.gradients[1].fill_(0.5)
        each.step([0.0, 0.1], max_norm=None)
    assert torch.equal(bank.parameters[1], fresh.parameters[1])


def test_what_the_config_says(tmp_path):
    bank = drawn_bank("gpt2", alpha=3.0)
    save_adapter(bank, 1, tmp_path / "first", base_model_name="openai-community/gpt2")
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "openai-community/gpt2"
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 3.0, True)
    assert config["target_modules"] == sorted(target.name for target in bank.targets)
    save_adapter(bank, 1, tmp_path / "second")
    assert '"base_model_name_or_path": "random/gpt2"' in (tmp_path / "second" / "adapter_config.json").read_text()


def test_an_adapter_on_a_policys_adapter_is_for_the_layers_below(tmp_path):
    model, _ = build_tiny("gpt2")
    options = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    bank = AdapterBank(get_peft_model(model, options).get_base_model(), slots=1, rank=2, alpha=4)
    bank.reset(0, seed=1)
    save_adapter(bank, 0, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    assert (
        adapter_state(bank, 0).keys()
        == adapter_state(AdapterBank(build_tiny("gpt2")[0], slots=1, rank=2, alpha=4), 0).keys()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 3, "alpha": 6.0}, "rank 3 and alpha 6 on the bank's 14 layers, got rank 4 and alpha 8, with another"),
        ({"alpha": 5.0}, "alpha 5 on the bank's 14 layers, got rank 4 and alpha 8$"),
        ({"target_modules": "default"}, "the bank's 4 layers.*down_proj"),
    ],
)
def test_another_shape_is_refused(options, said, tmp_path):
    save_adapter(drawn_bank(), 0, tmp_path)
    bank = drawn_bank(**options)
    before = bank.parameters.clone()
    with pytest.raises(ModelError, match=said):
        load_adapter(bank, 0, tmp_path)
    assert torch.equal(bank.parameters, before)
