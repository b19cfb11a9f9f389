"""Attention over packed sequences: linear layers see no padding, and attention no other sequence.

transformers keeps packed sequences apart by a mask over all pairs of tokens, most of which belong to different
sequences. Here each group of sequences of similar length becomes a small batch for plain causal attention, so a step
costs the sum of the squared lengths; the padding within a group is seen by attention alone. Models whose attention
needs more than a causal mask (a sliding window, soft-capped scores, sinks) say so when they call it; `isolation/`
finds out and takes another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "seal_packed"
_SHORTEST = 0.6  # of a group's longest sequence


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a packed row go for attention.

    Attributes:
        groups: For each group the number of sequences n and their padded length L; together they have P places.
        there: The token at each place of all groups end to end, (P,); padding repeats the row's first token.
        back: The place of each token, (T,).
    """

    groups: tuple[tuple[int, int], ...]
    there: torch.Tensor
    back: torch.Tensor


_layout: ContextVar[Layout] = ContextVar("layout of the packed row in the forward pass")


def make_layout(lengths: Sequence[int], device: torch.device) -> Layout:
    """Group sequences of similar length; `lengths` are those in the row, in order."""
    starts = [0, *accumulate(lengths)]
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    grouped: list[list[int]] = []
    for number in order:
        if not grouped or lengths[number] < _SHORTEST * lengths[grouped[-1][0]]:
            grouped.append([])
        grouped[-1].append(number)
    groups = tuple((len(group), lengths[group[0]]) for group in grouped)
    there = torch.zeros(sum(count * length for count, length in groups), dtype=torch.long)
    back = torch.empty(starts[-1], dtype=torch.long)
    at = 0
    for group in grouped:
        for number in group:
            start, end = starts[number], starts[number + 1]
            there[at : at + end - start] = torch.arange(start, end)
            back[start:end] = torch.arange(at, at + end - start)
            at += lengths[group[0]]
    return Layout(groups, there.to(device), back.to(device))


# Both ways are written out: what autograd would make of a gather is a sum by index, whose order is not fixed on CUDA.


class _ToPlaces(torch.autograd.Function):
    """Rows of tokens (T, f) -> rows of places (P, f). What stands at padding never counts, so it gets no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return tokens.index_select(0, layout.there)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return grad.index_select(0, ctx.layout.back), None


class _ToTokens(torch.autograd.Function):
    """Rows of places (P, f) -> rows of tokens (T, f)."""

    @staticmethod
    def forward(ctx: Any, places: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return places.index_select(0, layout.back)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        layout = ctx.layout
        return grad.new_zeros(len(layout.there), grad.shape[1]).index_copy_(0, layout.back, grad), None


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
    layout = _layout.get()
    more = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    more += ["a mask of its own"] if attention_mask is not None else []
    more += ["a sliding window"] if sliding_window is not None and sliding_window < layout.groups[0][1] else []
    if more:
        raise UnsuitedError(f"its attention has {', '.join(more)}")
    heads = [tensor.shape[1] for tensor in (query, key, value)]
    rows = [_ToPlaces.apply(tensor[0].transpose(0, 1).flatten(1), layout) for tensor in (query, key, value)]
    outputs, start = [], 0
    for count, length in layout.groups:
        q, k, v = (
            places[start : start + count * length].view(count, length, number, -1).transpose(1, 2)  # (n, H, L, D)
            for places, number in zip(rows, heads, strict=True)
        )
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=heads[0] != heads[1])
        outputs.append(attended.transpose(1, 2).flatten(0, 1).flatten(1))  # (n * L, H * D)
        start += count * length
    places = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _ToTokens.apply(places, layout).view(1, len(layout.back), heads[0], -1), None  # type: ignore[union-attr]


AttentionInterface.register(NAME, attend)


def replaceable(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced; one that the user chose (`eager`, flash attention) stays."""
    chosen = model.config.get_text_config()._attn_implementation
    return chosen == "sdpa" and bool(getattr(model, "_supports_attention_backend", False))


@contextmanager
def packed_attention(model: PreTrainedModel, lengths: Sequence[int], device: torch.device) -> Iterator[None]:
    """Run the model with this attention on one row of sequences, and its backward pass if that recomputes activations.

    Args:
        model: A model whose attention is `replaceable`.
        lengths: Lengths of the sequences in the row, in order.
        device: Device of the row.
    """
    config = model.config.get_text_config()  # a vision tower beside it keeps its own
    before = config._attn_implementation
    token = _layout.set(make_layout(lengths, device))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _layout.reset(token)
