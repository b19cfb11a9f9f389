"""Base models: loaded, probed, and with LoRA in and beside their weights."""
