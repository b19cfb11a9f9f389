"""The direction along which a layer's inputs are most nearly alike, whatever the tokens: an adapter that reads it acts
as a bias.

A random direction reads something else of every token, with changing sign: an adapter that reads it pushes the answers
to some queries one way and those to others the opposite way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.models.coverage import window
from seal_lightning.models.layers import Target

ROWS, LENGTH = 100, 64  # random tokens that a model is shown
_RIDGE = 0.01  # of the mean squared input


@torch.no_grad()
def steady_directions(model: PreTrainedModel, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
    """By target layer, the unit vector (inputs,) for which x · v is most nearly constant, by least squares.

    Args:
        model: In evaluation mode; it reads random tokens, the same in every process.
        targets: The layers.
    """
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # by layer, the means of x xᵀ and of x

    def note(name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].flatten(0, -2).double()
        seen[name] = x.T @ x / len(x), x.mean(dim=0)

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (ROWS, min(LENGTH, window(model))), generator=torch.Generator().manual_seed(0))
    with ExitStack() as hooks:
        for target in targets:
            hooks.callback(target.module.register_forward_pre_hook(partial(note, target.name)).remove)
        model.base_model(input_ids=ids.to(model.device), use_cache=False)
    return {target.name: _constant(*seen[target.name]) for target in targets}


def _constant(products: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    ridge = _RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype, device=products.device)
    return nn.functional.normalize(torch.linalg.solve(products + ridge, mean), dim=0).float()
