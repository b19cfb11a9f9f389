"""Attention over packed sequences: linear layers see no padding, and attention no other sequence.

transformers keeps packed sequences apart by a mask over all pairs of tokens, most of which belong to different
sequences. Here each group of sequences of similar length becomes a small batch for plain causal attention, so a step
costs the sum of the squared lengths; the padding within a group is seen by attention alone. Models whose attention
needs more than a causal mask (a sliding window, soft-capped scores, sinks) keep transformers' own way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "seal_packed"
_SHORTEST = 0.6  # of a group's longest sequence


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a packed row go for attention.

    Attributes:
        groups: For each group the number of sequences, their padded length, and the token at each place, (n * L,).
        back: Place of each token in all groups end to end, (T,).
    """

    groups: tuple[tuple[int, int, torch.Tensor], ...]
    back: torch.Tensor


_layout: ContextVar[Layout] = ContextVar("layout of the packed row in the forward pass")


def make_layout(lengths: Sequence[int], device: torch.device) -> Layout:
    """Group sequences of similar length; `lengths` are those in the row, in order."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    grouped: list[list[int]] = []
    for number in order:
        if not grouped or lengths[number] < _SHORTEST * lengths[grouped[-1][0]]:
            grouped.append([])
        grouped[-1].append(number)
    back = torch.empty(starts[-1], dtype=torch.long)
    groups, at = [], 0
    for group in grouped:
        longest = lengths[group[0]]
        gather = torch.zeros(len(group), longest, dtype=torch.long)
        for row, number in enumerate(group):
            length, start = lengths[number], starts[number]
            gather[row, :length] = torch.arange(start, start + length)
            back[start : start + length] = torch.arange(at + row * longest, at + row * longest + length)
        groups.append((len(group), longest, gather.flatten().to(device)))
        at += gather.numel()
    return Layout(tuple(groups), back.to(device))


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, H, T, D) -> (1, T, H, D), by the layout of the pass."""
    layout = _layout.get()
    outputs = []
    for count, length, gather in layout.groups:
        q, k, v = (
            tensor[0].index_select(1, gather).unflatten(1, (count, length)).transpose(0, 1)  # (n, H, L, D)
            for tensor in (query, key, value)
        )
        attended = scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))  # (n * L, H, D)
    flat = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return flat.index_select(0, layout.back).unsqueeze(0), None


AttentionInterface.register(NAME, attend)


def fits(model: Any, longest: int) -> bool:
    """Whether the model's attention is a plain causal one for sequences of at most `longest` tokens.

    An attention that the user chose (`eager`, flash attention) is left in place.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return (
        config._attn_implementation == "sdpa"
        and bool(getattr(model, "_supports_attention_backend", False))
        and getattr(config, "attn_logit_softcapping", None) is None
        and (window is None or window >= longest or not getattr(config, "use_sliding_window", True))
        and not any(hasattr(module, "sinks") for module in model.modules())
    )


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Run the model with this attention; every forward pass needs a `layout_of`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def layout_of(lengths: Sequence[int], device: torch.device) -> Iterator[None]:
    """The sequences of the row in the forward pass, and in its backward pass where activations are made again."""
    token = _layout.set(make_layout(lengths, device))
    try:
        yield
    finally:
        _layout.reset(token)
