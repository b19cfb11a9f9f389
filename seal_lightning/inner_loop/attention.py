"""Attention over packed sequences: a sequence sees no other one.

transformers keeps packed sequences apart by a mask over all pairs of tokens, most of which belong to different
sequences. Here each group of equally long sequences is a small batch for plain causal attention, so a step costs the
sum of the squared lengths; on a GPU, in half precision, torch takes sequences of any lengths at once. Models whose
attention needs more than a causal mask (a sliding window, soft-capped scores, sinks) say so when they call it;
`isolation/` finds out and takes another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from seal_lightning.inner_loop.routing import has_grouped

varlen: ModuleType | None
try:
    from torch.nn.attention import varlen
except ImportError:
    varlen = None

NAME = "seal_packed"
_ROW = "_seal_row"

Groups = Sequence[tuple[int, int]]  # n sequences of L tokens each, one group after the other


@dataclass(frozen=True, slots=True)
class PackedRow:
    """How sequences lie in a row.

    Attributes:
        groups: The groups, end to end.
        starts: Where each sequence starts, and where the last one ends, (n + 1,), int32, for torch's attention over any
            lengths; None for plain attention group by group.
    """

    groups: Groups
    starts: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(length for _, length in self.groups)


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
    row: PackedRow = getattr(module.config, _ROW)
    more = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    more += ["a mask of its own"] if attention_mask is not None else []
    more += ["a sliding window"] if sliding_window is not None and sliding_window < row.longest else []
    if more:
        raise UnsuitedError(f"its attention has {', '.join(more)}")
    if row.starts is not None:
        q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # (T, H, D)
        return _at_once(q, k, v, row.starts, row.longest, scaling)[None], None
    sizes = [count * length for count, length in row.groups]
    batches = [_by_group(tensor, row.groups, sizes) for tensor in (query, key, value)]
    outputs = [_causal(q, k, v, scaling) for q, k, v in zip(*batches, strict=True)]
    rows = [attended.transpose(1, 2).flatten(0, 1) for attended in outputs]  # (n * L, H, D)
    return (rows[0] if len(rows) == 1 else torch.cat(rows))[None], None


def _by_group(tensor: torch.Tensor, groups: Groups, sizes: Sequence[int]) -> list[torch.Tensor]:
    """(1, H, T, D) -> (n, H, L, D) of each group."""
    parts = tensor.squeeze(0).transpose(0, 1).split(list(sizes))
    return [part.unflatten(0, group).transpose(1, 2) for part, group in zip(parts, groups, strict=True)]


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float | None) -> torch.Tensor:
    dtype = q.dtype
    if q.device.type == "cpu" and dtype == torch.bfloat16:  # whose backward pass takes three times as long there
        q, k, v = q.float(), k.float(), v.float()
    attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return attended.to(dtype)


def has_lengths(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether sequences of any lengths are taken at once: by torch's attention for them, and adapters' products too."""
    return varlen is not None and device.type == "cuda" and has_grouped(device, dtype, ())


def _at_once(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scaling: float | None
) -> torch.Tensor:
    """(T, H, D) of sequences of any lengths, each causal."""
    if (each := q.shape[1] // k.shape[1]) > 1:  # the argument for it is newer than the function
        k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
    assert varlen is not None, "asked for where it is there"
    return varlen.varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0))


AttentionInterface.register(NAME, attend)


def replaceable(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced; one that the user chose (`eager`, flash attention) stays."""
    chosen = model.config.get_text_config()._attn_implementation
    return chosen == "sdpa" and bool(getattr(model, "_supports_attention_backend", False))


@contextmanager
def packed_attention(model: PreTrainedModel, row: PackedRow) -> Iterator[None]:
    """Run the model with this attention on one row of sequences, and its backward pass if that recomputes activations.

    Args:
        model: A model whose attention is `replaceable`.
        row: How the sequences lie.
    """
    config = model.config.get_text_config()  # a vision tower beside it keeps its own
    before = config._attn_implementation
    config._attn_implementation = NAME
    setattr(config, _ROW, row)  # on the model: a GPU's backward pass runs on a thread of its own
    try:
        yield
    finally:
        config._attn_implementation = before
        delattr(config, _ROW)
