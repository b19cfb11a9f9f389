"""Fast weights: outer products of what a text's tokens are, added up and read as a weight (arXiv 2411.05877).

For each target layer, keys and values of the tokens h of a text, as the frozen model has read them:

    S = Σ (A₂ h) (A₃ h)ᵀ,    ΔW = alpha / r * Bᵀ norm(S)ᵀ A₁

The state S is the code. It is linear in the tokens' outer products: the states of pieces, or of documents, add up to
that of the whole, and the normalisation comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.generator.base import Adapters, Generator, GeneratorNetwork
from seal_lightning.generator.drawing import drawn
from seal_lightning.generator.reading import Reading, checked_layers, rms_norm

Normalisation = Literal["frobenius", "orthogonal"]
_STEPS = 5  # of Newton-Schulz
_QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values above 0.01 to between 0.7 and 1.2 in five steps


class FastWeights(Generator):
    """Sums of outer products of tokens' states, normalised; documents and their pieces add up exactly.

    Args:
        rank: Rank of the adapters that it writes, and width of the values.
        alpha: Their scale; the output is multiplied by alpha / rank.
        target_modules: The layers that get adapters: `default`, `all-linear` or names, as for the inner loop.
        bound: The largest norm of a layer's change, as a share of the norm of its frozen weight; null for none.
        drift: Weight of a penalty on the squared norm of the change, relative to that of the frozen weight.
        boosted_layers: How many layers are boosted: those whose change is the largest share of the frozen weight.
        boost: Their change is multiplied by it, after the bound.
        keys: Width of the keys, k; null is the rank.
        layers: Which states between the layers are read, side by side: 0 is the embedding, -1 the last; null lets every
            target read its own input, as in the paper.
        normalisation: `frobenius` divides a state by its norm, `orthogonal` brings all of its singular values near 1;
            both leave it with a norm of about √r.
    """

    reads_pieces: ClassVar[bool] = True

    def __init__(
        self,
        *,
        rank: int = 32,
        alpha: float = 32.0,
        target_modules: str | list[str] | None = "all-linear",
        bound: float | None = None,
        drift: float = 0.0,
        boosted_layers: int = 0,
        boost: float = 1.0,
        keys: int | None = None,
        layers: Sequence[int] | None = (0, -3),
        normalisation: Normalisation = "orthogonal",
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
        self.keys = rank if keys is None else check_count("model.generator.keys", keys)
        if layers is not None and not layers:
            raise ConfigError("model.generator.layers must name at least one layer, or be null, got none")
        if normalisation not in get_args(Normalisation):
            raise ConfigError(
                f"model.generator.normalisation must be frobenius or orthogonal, got {normalisation!r}: use one of them"
            )
        self.layers = layers if layers is None else tuple(layers)
        self.normalisation: Normalisation = normalisation

    def network(self, model: PreTrainedModel, *, seed: int) -> FastWeightsNetwork:
        return FastWeightsNetwork(self, model, seed=seed)


class FastWeightsNetwork(GeneratorNetwork):
    """See `FastWeights`. B starts at zero, so nothing is changed at first.

    Attributes:
        asking: A₁ of each target layer, (k, inputs).
        keys: A₂, (k, width of what is read).
        values: A₃, (r, width of what is read).
        writing: B, (r, outputs).
    """

    def __init__(self, settings: FastWeights, model: PreTrainedModel, *, seed: int) -> None:
        super().__init__(settings, model)
        config = model.config.get_text_config()
        k, r, draw = settings.keys, settings.rank, torch.Generator().manual_seed(seed)
        self.state = (k, r)
        self.normalisation: Normalisation = settings.normalisation
        self.layers = None if settings.layers is None else checked_layers(settings.layers, config.num_hidden_layers)
        self.asking, self.keys = nn.ParameterList(), nn.ParameterList()
        self.values, self.writing = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in self.sizes.values():
            read = inputs if self.layers is None else config.hidden_size * len(self.layers)
            self.asking.append(nn.Parameter(drawn(draw, k, inputs)))
            self.keys.append(nn.Parameter(drawn(draw, k, read)))
            self.values.append(nn.Parameter(drawn(draw, r, read)))
            self.writing.append(nn.Parameter(torch.zeros(r, outputs)))

    @property
    def reads_hidden(self) -> bool:
        return self.layers is not None

    def code(self, reading: Reading) -> torch.Tensor:
        states: list[torch.Tensor] = []
        shared = None if self.layers is None else reading.side_by_side(self.layers)
        for name, keys, values in zip(self.sizes, self.keys, self.values, strict=True):
            tokens = (rms_norm(reading.inputs[name]) if shared is None else shared) * reading.mask[..., None]
            states.append(((tokens @ keys.T).mT @ (tokens @ values.T)).flatten(1))  # (R, k * r)
        pieces = torch.cat(states, dim=1)
        return pieces.new_zeros(reading.texts, pieces.shape[1]).index_add(0, reading.owners, pieces)

    def decode(self, code: torch.Tensor) -> Adapters:
        normalised = normalise(code.unflatten(1, (len(self.sizes), *self.state)), self.normalisation)
        found: Adapters = {}
        for place, name in enumerate(self.sizes):
            A = normalised[:, place].mT @ self.asking[place]
            found[name] = (A, self.writing[place].expand(len(code), -1, -1))
        return found


def normalise(states: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """States (..., k, r) with a norm of about √min(k, r), whatever theirs is."""
    scaled = states / states.flatten(-2).norm(dim=-1)[..., None, None].clamp_min(1e-12)
    if normalisation == "frobenius":
        return scaled * min(states.shape[-2:]) ** 0.5
    a, b, c = _QUINTIC
    for _ in range(_STEPS):
        square = scaled @ scaled.mT
        scaled = a * scaled + (b * square + c * square @ square) @ scaled
    return scaled
