"""Many LoRAs on one frozen model: the bank, its routing of tokens, and export to PEFT."""

from seal_lightning.adapters.bank import AdapterBank
from seal_lightning.adapters.export import (
    LoRA,
    adapter_state,
    bank_lora,
    load_adapter,
    merge_lora,
    read_lora,
    save_adapter,
    save_lora,
    stack,
    transposed,
    updates_of,
)

__all__ = [
    "AdapterBank",
    "LoRA",
    "adapter_state",
    "bank_lora",
    "load_adapter",
    "merge_lora",
    "read_lora",
    "save_adapter",
    "save_lora",
    "stack",
    "transposed",
    "updates_of",
]
