"""The inner loop: many temporary LoRAs trained at once in one bank (arXiv 2506.10943, section 3.2)."""
