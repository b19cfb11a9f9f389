"""Attention over packed sequences: a sequence sees no other one.

transformers keeps packed sequences apart by a mask over all pairs of tokens, most of which belong to different
sequences. Here each group of equally long sequences is a small batch for plain causal attention, so a step costs the
sum of the squared lengths. Models whose attention needs more than a causal mask (a sliding window, soft-capped scores,
sinks) say so when they call it; `isolation/` finds out and takes another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "seal_packed"
_GROUPS = "_seal_groups"

Groups = Sequence[tuple[int, int]]  # n sequences of L tokens each, one group after the other


class UnsuitedError(RuntimeError):
    """The model's attention is more than a causal one."""


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, H, T, D) -> (1, T, H, D), by the layout of the pass.

    Raises:
        UnsuitedError: The model asks for more than causal attention.
    """
    groups: Groups = getattr(module.config, _GROUPS)
    more = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    more += ["a mask of its own"] if attention_mask is not None else []
    more += ["a sliding window"] if sliding_window is not None and sliding_window < groups[0][1] else []
    if more:
        raise UnsuitedError(f"its attention has {', '.join(more)}")
    sizes = [count * length for count, length in groups]
    batches = [_by_group(tensor, groups, sizes) for tensor in (query, key, value)]
    outputs = [_causal(q, k, v, scaling) for q, k, v in zip(*batches, strict=True)]
    rows = [attended.transpose(1, 2).flatten(0, 1) for attended in outputs]  # (n * L, H, D)
    return (rows[0] if len(rows) == 1 else torch.cat(rows))[None], None


def _by_group(tensor: torch.Tensor, groups: Groups, sizes: Sequence[int]) -> list[torch.Tensor]:
    """(1, H, T, D) -> (n, H, L, D) of each group."""
    parts = tensor[0].transpose(0, 1).split(list(sizes))
    return [part.unflatten(0, group).transpose(1, 2) for part, group in zip(parts, groups, strict=True)]


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None) -> torch.Tensor:
    dtype = q.dtype
    if q.device.type == "cpu" and dtype == torch.bfloat16:  # whose backward pass takes three times as long there
        q, k, v = q.float(), k.float(), v.float()
    attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return attended.to(dtype)


AttentionInterface.register(NAME, attend)


def replaceable(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced; one that the user chose (`eager`, flash attention) stays."""
    chosen = model.config.get_text_config()._attn_implementation
    return chosen == "sdpa" and bool(getattr(model, "_supports_attention_backend", False))


@contextmanager
def packed_attention(model: PreTrainedModel, groups: Groups) -> Iterator[None]:
    """Run the model with this attention on one row of sequences, and its backward pass if that recomputes activations.

    Args:
        model: A model whose attention is `replaceable`.
        groups: How the sequences lie in the row; longest first.
    """
    config = model.config.get_text_config()  # a vision tower beside it keeps its own
    before = config._attn_implementation
    config._attn_implementation = NAME
    setattr(config, _GROUPS, groups)  # on the model: a GPU's backward pass runs on a thread of its own
    try:
        yield
    finally:
        config._attn_implementation = before
        delattr(config, _GROUPS)
