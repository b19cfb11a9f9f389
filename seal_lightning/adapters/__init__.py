"""Many LoRAs on one frozen model: the bank, its routing of tokens, and export to PEFT."""

from seal_lightning.adapters.bank import AdapterBank
from seal_lightning.adapters.export import adapter_state, load_adapter, save_adapter

__all__ = ["AdapterBank", "adapter_state", "load_adapter", "save_adapter"]
