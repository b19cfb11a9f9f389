"""Small tensors on their way to a GPU, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; to CUDA through pinned memory, so that the host does not wait for the device."""
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def sent_together(tensors: Sequence[torch.Tensor | None], device: torch.device) -> list[torch.Tensor | None]:
    """Small tensors of the CPU on a device; to CUDA all in one copy."""
    if device.type != "cuda":
        return [None if tensor is None else tensor.to(device) for tensor in tensors]
    given = [tensor.contiguous() for tensor in tensors if tensor is not None]
    padded = [-(-tensor.nbytes // 16) * 16 for tensor in given]  # every part is aligned
    starts = [0, *accumulate(padded)]
    host = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)
    for tensor, start in zip(given, starts, strict=False):
        host[start : start + tensor.nbytes] = tensor.flatten().view(torch.uint8)
    there = host.to(device, non_blocking=True)
    moved = iter(
        there[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for tensor, start in zip(given, starts, strict=False)
    )
    return [None if tensor is None else next(moved) for tensor in tensors]


def read_numbers(values: torch.Tensor) -> list[float]:
    """The values of a small tensor, read from its device in one go: the host waits here for everything queued."""
    return values.flatten().double().tolist()
