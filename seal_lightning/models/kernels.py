"""Which of torch's kernels may run on a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_PLANLESS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def planless_attention(device: torch.device) -> AbstractContextManager[object]:
    """On CUDA, torch's attention without cuDNN's, which builds a plan for each new shape.

    Batches of the inner loop and of generation nearly always have a new shape, and a plan takes tens to hundreds of
    milliseconds (it pays where shapes repeat). cuDNN's backward pass is not deterministic either.
    """
    return sdpa_kernel(_PLANLESS) if device.type == "cuda" else nullcontext()
