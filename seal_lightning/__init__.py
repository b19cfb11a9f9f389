"""Self-adapting language models (SEAL, arXiv 2506.10943) as a Lightning trainer plugin."""

__version__ = "0.1.0"
