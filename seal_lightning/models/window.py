"""The window of a model: the most tokens that it can attend to."""

from __future__ import annotations

from transformers import PreTrainedModel

UNLIMITED = 1 << 20  # of a model whose configuration sets no limit


def window(model: PreTrainedModel) -> int:
    """The most tokens the model can attend to, by the configuration of its language model."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED)
