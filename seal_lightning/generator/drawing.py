"""First weights of a generator's network, drawn from its own seed."""

from __future__ import annotations

import torch


def drawn(generator: torch.Generator, outputs: int, inputs: int) -> torch.Tensor:
    """A matrix (outputs, inputs) that keeps the size of what it is multiplied with."""
    return torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
