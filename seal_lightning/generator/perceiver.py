"""A perceiver: one learned query for each rank of each target layer looks at the text's states (arXiv 2602.15902).

    states of the text -> blocks of cross-attention, target layers x rank queries -> rows of A and B

Rows are scaled to length 1; learned factors give them their size, and those of B start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.generator.base import Adapters, Generator, GeneratorNetwork
from seal_lightning.generator.drawing import drawn
from seal_lightning.generator.reading import TextStates, checked_layers, rms_norm


class Perceiver(Generator):
    """Cross-attention from target layers x rank queries to the states of a text.

    Args:
        rank: Rank of the adapters that it writes.
        alpha: Their scale; the output is multiplied by alpha / rank.
        target_modules: The layers that get adapters: `default`, `all-linear` or names, as for the inner loop.
        bound: The largest norm of a layer's change, as a share of the norm of its frozen weight; null for none.
        drift: Weight of a penalty on the squared norm of the change, relative to that of the frozen weight.
        boosted_layers: How many layers are boosted: those whose change is the largest share of the frozen weight.
        boost: Their change is multiplied by it, after the bound.
        width: Width of the queries between the blocks.
        blocks: Blocks of cross-attention and an MLP.
        heads: Attention heads of a block; they share the width.
        layers: Which states between the layers are read, side by side: 0 is the embedding, -1 the last.
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
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        layers: Sequence[int] = (0, -3),
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
        self.width = check_count("model.generator.width", width)
        self.blocks = check_count("model.generator.blocks", blocks)
        self.heads = check_count("model.generator.heads", heads)
        if width % heads:
            raise ConfigError(f"model.generator.heads must divide the width of {width}, got {heads}")
        if not layers:
            raise ConfigError("model.generator.layers must name at least one layer, got none: use [0, -1]")
        self.layers = tuple(layers)

    def network(self, model: PreTrainedModel, *, seed: int) -> PerceiverNetwork:
        return PerceiverNetwork(self, model, seed=seed)


class PerceiverNetwork(GeneratorNetwork):
    """See `Perceiver`. The factors of B start at zero, so nothing is changed at first.

    Attributes:
        queries: What the blocks start from, (target layers * r, width).
        to_A: By target layer, (inputs, width).
        to_B: By target layer, (outputs, width).
        sizes_A: Factors of the rows of A, (target layers, r).
        sizes_B: Factors of the rows of B, (target layers, r); 1 makes the change as large as the frozen weight.
    """

    reads_hidden = True

    def __init__(self, settings: Perceiver, model: PreTrainedModel, *, seed: int) -> None:
        super().__init__(settings, model)
        config = model.config.get_text_config()
        rank, width, draw = settings.rank, settings.width, torch.Generator().manual_seed(seed)
        self.shape = (len(self.sizes), rank, width)
        self.layers = checked_layers(settings.layers, config.num_hidden_layers)
        self.reading = nn.Parameter(drawn(draw, width, config.hidden_size * len(self.layers)))
        self.queries = nn.Parameter(torch.randn(len(self.sizes) * rank, width, generator=draw))
        self.blocks = nn.ModuleList(_Block(draw, width, settings.heads) for _ in range(settings.blocks))
        self.to_A = nn.ParameterList(drawn(draw, inputs, width) for inputs, _ in self.sizes.values())
        self.to_B = nn.ParameterList(drawn(draw, outputs, width) for _, outputs in self.sizes.values())
        self.sizes_A = nn.Parameter(torch.ones(len(self.sizes), rank))
        self.sizes_B = nn.Parameter(torch.zeros(len(self.sizes), rank))
        self.units = [norm * rank**0.5 / settings.alpha for norm in self.frozen_norms.values()]

    def code(self, reading: TextStates) -> torch.Tensor:
        # one row is one text: longer ones are refused
        tokens = functional.linear(reading.side_by_side(self.layers), self.reading)
        latent = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            latent = block(latent, tokens, reading.mask)
        return rms_norm(latent).flatten(1)

    def decode(self, code: torch.Tensor) -> Adapters:
        latent = code.unflatten(1, self.shape)
        found: Adapters = {}
        for place, name in enumerate(self.sizes):
            A = functional.normalize(latent[:, place] @ self.to_A[place].T, dim=-1)
            B = functional.normalize(latent[:, place] @ self.to_B[place].T, dim=-1)
            factors = self.sizes_B[place] * self.units[place]
            found[name] = (A * self.sizes_A[place][:, None], B * factors[:, None])
        return found


class _Block(nn.Module):
    """Cross-attention, then an MLP, each added to the queries."""

    def __init__(self, draw: torch.Generator, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.asks, self.keys, self.values, self.mixes = (nn.Parameter(drawn(draw, width, width)) for _ in range(4))
        self.inner = nn.Parameter(drawn(draw, 4 * width, width))
        self.outer = nn.Parameter(drawn(draw, width, 4 * width))

    def forward(self, latent: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Queries (N, Q, width) that look at tokens (N, T, width)."""
        seen = rms_norm(tokens)
        parts = [self._split(rms_norm(latent) @ self.asks.T)]
        parts += [self._split(seen @ self.keys.T), self._split(seen @ self.values.T)]
        looked = functional.scaled_dot_product_attention(*parts, attn_mask=mask[:, None, None, :])
        latent = latent + looked.transpose(1, 2).flatten(2) @ self.mixes.T
        return latent + functional.gelu(rms_norm(latent) @ self.inner.T) @ self.outer.T

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
