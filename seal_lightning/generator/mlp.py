"""The simplest generator: a network with one hidden layer reads mean states, and its few numbers set the coefficients
of directions that all adapters share.

ΔW = alpha / r * Σⱼ tanh(cⱼ) uⱼ vⱼᵀ, where c is linear in the code. The code is small, so that a Gaussian around it can
be explored by scores alone (`Reinforce`); the directions are drawn from the seed and learn where gradients reach them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.generator.base import Adapters, Generator, GeneratorNetwork
from seal_lightning.generator.drawing import drawn
from seal_lightning.generator.reading import TextStates, checked_layers
from seal_lightning.generator.steady import steady_directions


class MLPGenerator(Generator):
    """Mean states of chosen layers, through an MLP, set tanh-bounded coefficients of low-rank directions.

    Args:
        rank: Rank of the adapters that it writes: directions of each layer.
        alpha: Their scale; the output is multiplied by alpha / rank.
        target_modules: The layers that get adapters: `default`, `all-linear` or names, as for the inner loop.
        bound: The largest norm of a layer's change, as a share of the norm of its frozen weight; null for none.
        drift: Weight of a penalty on the squared norm of the change, relative to that of the frozen weight.
        boosted_layers: How many layers are boosted: those whose change is the largest share of the frozen weight.
        boost: Their change is multiplied by it, after the bound.
        size: Numbers in a code, D.
        width: Hidden units of the MLP.
        layers: Which states between the layers are pooled: 0 is the embedding, -1 the last.
        reach: Norm of a layer's change whose coefficients are all 1, as a share of the frozen weight's, at the start.
        steady: Whether all directions of a layer read its inputs where they are most nearly alike (see
            `steady_directions`), so that at the start an adapter acts as a bias; else each reads a random direction.
    """

    def __init__(
        self,
        *,
        rank: int = 8,
        alpha: float = 8.0,
        target_modules: str | list[str] | None = "all-linear",
        bound: float | None = None,
        drift: float = 0.0,
        boosted_layers: int = 0,
        boost: float = 1.0,
        size: int = 32,
        width: int = 128,
        layers: Sequence[int] = (-1,),
        reach: float = 0.5,
        steady: bool = False,
    ) -> None:
        super().__init__(
            rank=rank,
            alpha=alpha,
            target_modules=target_modules,
            bound=bound,
            drift=drift,
            boosted_layers=boosted_layers,
            boost=boost,
        )
        self.size = check_count("model.generator.size", size)
        self.width = check_count("model.generator.width", width)
        if not layers:
            raise ConfigError("model.generator.layers must name at least one layer, got none: use [-1] for the last")
        if not reach > 0:
            raise ConfigError(f"model.generator.reach must be above 0, got {reach}")
        self.layers, self.reach, self.steady = tuple(layers), reach, steady

    def network(self, model: PreTrainedModel, *, seed: int) -> MLPNetwork:
        return MLPNetwork(self, model, seed=seed)


class MLPNetwork(GeneratorNetwork):
    """See `MLPGenerator`. The code's layer starts at zero, so nothing is changed at first."""

    reads_hidden = True

    def __init__(self, settings: MLPGenerator, model: PreTrainedModel, *, seed: int) -> None:
        super().__init__(settings, model)
        config = model.config.get_text_config()
        self.layers = checked_layers(settings.layers, config.num_hidden_layers)
        rank, draw = settings.rank, torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(drawn(draw, settings.width, config.hidden_size * len(self.layers)))
        self.inner_bias = nn.Parameter(torch.zeros(settings.width))
        self.outer = nn.Parameter(torch.zeros(settings.size, settings.width))
        self.outer_bias = nn.Parameter(torch.zeros(settings.size))
        self.mixes = nn.ParameterList(drawn(draw, rank, settings.size) for _ in self.sizes)
        self.into, self.out_of = nn.ParameterList(), nn.ParameterList()
        steady = steady_directions(model, settings.targets(model)) if settings.steady else {}
        for name, (inputs, outputs) in self.sizes.items():
            # rank-one parts of random directions are nearly orthogonal: their squared norms add up
            strength = settings.reach * self.frozen_norms[name] * rank**0.5 / settings.alpha
            read = drawn(draw, rank, inputs)
            self.into.append(nn.Parameter(steady[name].repeat(rank, 1) if steady else read))
            self.out_of.append(nn.Parameter(drawn(draw, rank, outputs) * strength))

    def code(self, reading: TextStates) -> torch.Tensor:
        # one row is one text: longer ones are refused
        share = (reading.mask / reading.mask.sum(dim=1, keepdim=True))[..., None]  # (N, T, 1)
        pooled = (reading.side_by_side(self.layers) * share).sum(dim=1)
        middle = nn.functional.gelu(nn.functional.linear(pooled, self.inner, self.inner_bias))
        return nn.functional.linear(middle, self.outer, self.outer_bias)

    def decode(self, code: torch.Tensor) -> Adapters:
        found: Adapters = {}
        for name, mix, into, out_of in zip(self.sizes, self.mixes, self.into, self.out_of, strict=True):
            coefficients = torch.tanh(code @ mix.T)  # (N, r)
            found[name] = (into.expand(len(code), -1, -1), coefficients[:, :, None] * out_of)
        return found
