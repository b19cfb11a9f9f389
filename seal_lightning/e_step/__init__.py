"""The E-step: self-edits are written, adapted to, asked about and rewarded (arXiv 2506.10943, section 3.1)."""
