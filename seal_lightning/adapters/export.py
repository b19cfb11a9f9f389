"""Adapters of the bank as PEFT folders, which `PeftModel.from_pretrained` and servers such as vLLM load."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from seal_lightning.adapters.bank import AdapterBank


def adapter_state(bank: AdapterBank, slot: int) -> dict[str, torch.Tensor]:
    """One adapter by peft's parameter names, on the CPU: `lora_A.weight` (r, in) and `lora_B.weight` (out, r)."""
    state = {}
    for target in bank.targets:
        name = f"base_model.model.{target.name}"
        state[f"{name}.lora_A.weight"] = bank.A[target.name][slot].detach().T.contiguous().cpu()
        state[f"{name}.lora_B.weight"] = bank.B[target.name][slot].detach().T.contiguous().cpu()
    return state


def save_adapter(bank: AdapterBank, slot: int, folder: str | Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` of one adapter into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=bank.rank,
        lora_alpha=bank.alpha,  # type: ignore[arg-type]  # peft computes alpha / r, floats are fine
        lora_dropout=0.0,
        target_modules=[target.name for target in bank.targets],
        fan_in_fan_out=any(isinstance(target.module, Conv1D) for target in bank.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=bank.model.config._name_or_path,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    save_file(adapter_state(bank, slot), folder / "adapter_model.safetensors", metadata={"format": "pt"})
