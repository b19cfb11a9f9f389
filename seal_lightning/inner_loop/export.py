"""Adapters of the bank as PEFT folders, which `PeftModel.from_pretrained` and servers such as vLLM load; and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from seal_lightning.errors import ModelError
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.models.lora import WEIGHTS, LoRA, carried, save_lora, stack


def adapter_state(bank: AdapterBank, slot: int) -> dict[str, torch.Tensor]:
    """One adapter by peft's parameter names, on the CPU: `lora_A.weight` (r, in) and `lora_B.weight` (out, r)."""
    return {name: view.detach().contiguous().cpu() for name, view in _by_peft_name(bank, slot).items()}


def save_adapter(bank: AdapterBank, slot: int, folder: str | Path, *, base_model_name: str | None = None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` of one adapter into `folder`.

    Args:
        bank: The bank that holds the adapter.
        slot: Slot of the adapter.
        folder: Created if missing.
        base_model_name: Name of the base to record in its config; by default the model's own name.
    """
    lora, before = bank_lora(bank, slot), carried(bank.model)
    save_lora(stack([before, lora]) if before else lora, folder, model=bank.model, base_model_name=base_model_name)


def bank_lora(bank: AdapterBank, slot: int) -> LoRA:
    """One adapter with its scale."""
    return LoRA(adapter_state(bank, slot), bank.alpha / bank.ranks[slot])


def load_adapter(bank: AdapterBank, slot: int, folder: str | Path) -> None:
    """Put an adapter that `save_adapter` wrote (or peft, with the same layers, rank and alpha) into a slot.

    The slot's optimizer state starts afresh.

    Raises:
        ModelError: Layers, shapes or scale differ from the bank's.
    """
    config: Any = LoraConfig.from_pretrained(str(folder))
    state = load_file(Path(folder) / WEIGHTS)
    views = _by_peft_name(bank, slot, rank=bank.rank)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    wrong = sorted(state.keys() ^ views.keys())
    wrong += [name for name in sorted(state.keys() & views.keys()) if state[name].shape != views[name].shape]
    if wrong or abs(scale - bank.alpha / bank.rank) > 1e-6 * scale:
        raise ModelError(
            f"{folder}: expected an adapter of rank {bank.rank} and alpha {bank.alpha:g} on the bank's "
            f"{len(bank.targets)} layers, got rank {config.r} and alpha {config.lora_alpha:g}"
            + (f", with another shape or layer at {wrong[0]}" if wrong else "")
        )
    bank.reset(slot, seed=0)
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(state[name])


def _by_peft_name(bank: AdapterBank, slot: int, *, rank: int | None = None) -> dict[str, torch.Tensor]:
    """One slot's A (r, in) and B (out, r) as views, without what only pads its rank."""
    rank = bank.ranks[slot] if rank is None else rank
    views = {}
    for target in bank.targets:
        views[f"base_model.model.{target.name}.lora_A.weight"] = bank.A[target.name][slot, :rank]
        views[f"base_model.model.{target.name}.lora_B.weight"] = bank.B[target.name][slot, :rank].T
    return views
