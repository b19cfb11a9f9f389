"""Parameters that DeepSpeed's ZeRO-3 has spread over the ranks: to read or write one, all ranks gather it together.

Everything here is a collective where a parameter is partitioned, and does nothing special where none is.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def is_partitioned(parameter: torch.Tensor) -> bool:
    """Whether this process holds a part of the parameter only."""
    return hasattr(parameter, "ds_id")


def whole(parameters: Iterable[Any], *, write: bool = False) -> AbstractContextManager[Any]:
    """The parameters with all their values in this block; with `write`, rank 0's values stay afterwards."""
    parts = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not parts:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters  # an optional dependency, here by the time it is needed

    return GatheredParameters(parts, modifier_rank=0 if write else None)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the weights of a module of its architecture, with their types and device, one at a time."""
    parameters = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        with whole([parameter]):
            parameters[name].data = parameter.detach().clone()
    buffers = dict(target.named_buffers())
    for name, buffer in source.named_buffers():
        buffers[name].data = buffer.detach().clone()
