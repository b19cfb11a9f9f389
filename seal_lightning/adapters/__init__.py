"""Many LoRAs on one frozen model: the bank, its routing of tokens, and export to PEFT."""

from seal_lightning.adapters.bank import AdapterBank
from seal_lightning.adapters.export import (
    LoRA,
    adapter_state,
    bank_lora,
    carried,
    carry,
    load_adapter,
    merge_lora,
    note_base,
    save_adapter,
    save_lora,
    stack,
    transposed,
)
from seal_lightning.adapters.reading import base_of, read_lora
from seal_lightning.adapters.whole import save_whole, whole_state

__all__ = [
    "AdapterBank",
    "LoRA",
    "adapter_state",
    "bank_lora",
    "base_of",
    "carried",
    "carry",
    "load_adapter",
    "merge_lora",
    "note_base",
    "read_lora",
    "save_adapter",
    "save_lora",
    "save_whole",
    "stack",
    "transposed",
    "whole_state",
]
