"""The M-step: which self-edits are imitated, and the batches that do it (arXiv 2506.10943, section 3.1)."""
