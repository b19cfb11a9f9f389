"""Small tensors on their way to a GPU."""

from __future__ import annotations

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; to CUDA through pinned memory, so that the host does not wait for the device."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
