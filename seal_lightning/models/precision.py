"""Half precision as transformers loads it: weights are rounded, and what has to be exact stays float32.

`Module.to(dtype)`, which is what Lightning's `bf16-true` and `16-true` call, converts everything. Rounded frequencies
of rotary embeddings turn into phases that are off by a radian at position 1,000, and a server that holds the same model
would answer with others. AdamW's moments have the dtype of what is trained, so a LoRA needs its bits, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

STAYS = "stays_float32"  # an attribute that a module has whose parameters must keep their bits
_HALVES = (torch.bfloat16, torch.float16)


@contextmanager
def sparing_float32(module: nn.Module) -> Iterator[None]:
    """After this block, in which `module` may be converted, what has to be float32 and was is so again, as before.

    That is buffers, LoRAs, modules marked by `STAYS`, and the parameters that transformers leaves in float32 when it
    loads a model in the half precision that the conversion chose.
    """
    places = [(owner, name, buffer) for owner in module.modules() for name, buffer in owner._buffers.items()]
    parameters = [(parameter, parameter.data, spared) for parameter, spared in _spared(module)]
    yield
    for owner, name, before in places:
        now = owner._buffers[name]
        if before is not None and now is not None and before.dtype == torch.float32 and now.dtype in _HALVES:
            owner._buffers[name] = before.to(now.device)
    for parameter, before, spared in parameters:
        if before.dtype == torch.float32 and parameter.dtype in spared:
            parameter.data = before.to(parameter.device)


def _spared(module: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[torch.dtype, ...]]]:
    """The parameters that some half precisions leave alone, with these."""
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            yield parameter, _HALVES
    for model in module.modules():
        if getattr(model, STAYS, False):
            yield from ((parameter, _HALVES) for parameter in model.parameters())
        if isinstance(model, PreTrainedModel):
            kept = {_HALVES: model._keep_in_fp32_modules_strict, (torch.float16,): model._keep_in_fp32_modules}
            for spared, patterns in kept.items():
                yield from ((parameter, spared) for parameter in _matching(model, patterns or ()))


def _matching(model: PreTrainedModel, patterns: Iterable[str]) -> list[nn.Parameter]:
    """Parameters in whose names one of transformers' patterns is found."""
    expression = "|".join(pattern.replace("*", ".*") for pattern in patterns)
    named = model.named_parameters() if expression else ()
    return [parameter for name, parameter in named if re.search(expression, name)]
