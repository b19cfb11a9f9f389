"""Adapters as PEFT folders; equal logits after `PeftModel.from_pretrained` are in test_families."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from seal_lightning.inner_loop.bank import AdapterBank, bank_lora
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.lora import note_base
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.random_models import build_tiny


def drawn_bank(family="llama", *, rank=4, alpha=8.0, target_modules="all-linear"):
    """Two slots in which A and B are both random."""
    bank = AdapterBank(build_tiny(family)[0], slots=2, rank=rank, alpha=alpha, target_modules=target_modules)
    bank.parameters.copy_(torch.randn(bank.parameters.shape, generator=torch.Generator().manual_seed(0)))
    return bank


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_holds_the_adapter_of_its_slot_and_rank(family, tmp_path):
    bank = drawn_bank(family)
    drawn = torch.randn(bank.parameters[0].shape, generator=torch.Generator().manual_seed(1))
    bank.reset(0, seed=0, rank=2)
    bank.fill(1, drawn, rank=4)
    for slot, rank in enumerate([2, 4]):
        TrainedBank(bank, ()).save(slot, tmp_path / str(slot))
        read, kept = read_lora(tmp_path / str(slot)), bank_lora(bank, slot)
        assert (read.rank, read.scale) == (rank, 8.0 / rank) == (kept.rank, kept.scale)
        assert all(torch.equal(read.state[name], tensor) for name, tensor in kept.state.items())
        for target in bank.targets:
            delta = (bank.A[target.name][slot].T @ bank.B[target.name][slot]).T * (8.0 / rank)
            assert torch.allclose(read.delta(target.name), delta, rtol=0, atol=1e-5)


def test_what_the_config_says(tmp_path):
    bank = drawn_bank("gpt2", alpha=3.0)
    TrainedBank(bank, ()).save(1, tmp_path / "first")
    config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "random/gpt2"
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 3.0, True)
    assert config["target_modules"] == sorted({target.name.rpartition(".")[2] for target in bank.targets})
    note_base(bank.model, "openai-community/gpt2")
    TrainedBank(bank, ()).save(1, tmp_path / "second")
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "openai-community/gpt2"


def test_an_adapter_on_a_policys_adapter_is_for_the_layers_below(tmp_path):
    model, _ = build_tiny("gpt2")
    options = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    bank = AdapterBank(get_peft_model(model, options).get_base_model(), slots=1, rank=2, alpha=4)
    bank.reset(0, seed=1)
    TrainedBank(bank, ()).save(0, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    plain = AdapterBank(build_tiny("gpt2")[0], slots=1, rank=2, alpha=4)
    assert bank_lora(bank, 0).layers == bank_lora(plain, 0).layers
