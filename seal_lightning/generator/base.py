"""What a generator is: settings that a configuration names by class_path, and the network that they make for a model.

    texts -> reading (the frozen model's states) -> code -> adapters of the bank

The code is what an edit is decided in; a Gaussian around it is the policy that REINFORCE explores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.generator.reading import TextStates
from seal_lightning.models.beside import base_layer, whole_weight
from seal_lightning.models.layers import Target, find_targets
from seal_lightning.stamps.arguments import Remembers

# By layer name, A (N, r, inputs) and B (N, r, outputs): the bank's form. ΔW is alpha / r * Bᵀ A, (outputs, inputs).
Adapters: TypeAlias = dict[str, tuple[torch.Tensor, torch.Tensor]]


NOT_FINITE = "the generated adapter is not finite"


class Generator(Remembers, ABC):
    """Settings of a generator.

    Args:
        rank: Rank of the adapters that it writes.
        alpha: Their scale; the output is multiplied by alpha / rank.
        target_modules: The layers that get adapters: `default`, `all-linear` or names, as for the inner loop.
        bound: The largest norm of a layer's change, as a share of the norm of its frozen weight; null for none.
        drift: Weight of a penalty on the squared norm of the change, relative to that of the frozen weight.
        boosted_layers: How many layers are boosted: those in which an adapter's change has the largest norm, as a share
            of the frozen weight's; 0 for none. It lets a text win against what the model knows otherwise (arXiv
            2604.23750).
        boost: Their change is multiplied by it, after the bound.
    """

    reads_pieces: ClassVar[bool] = False  # whether codes add up, so that a text may be longer than the window

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
    ) -> None:
        self.rank = check_count("model.generator.rank", rank)
        if not alpha > 0:
            raise ConfigError(f"model.generator.alpha must be above 0, got {alpha}")
        if bound is not None and not bound > 0:
            raise ConfigError(f"model.generator.bound must be above 0, or null for none, got {bound}")
        if not drift >= 0:
            raise ConfigError(f"model.generator.drift must be 0 or more, got {drift}")
        self.alpha, self.target_modules, self.bound, self.drift = alpha, target_modules, bound, drift
        self.boosted_layers, self.boost = _checked_boost(boosted_layers, boost)

    def targets(self, model: PreTrainedModel) -> list[Target]:
        """The layers of a model that get adapters. Raises `ConfigError` where a name fits none."""
        return find_targets(model, self.target_modules, option="model.generator.target_modules")

    @abstractmethod
    def network(self, model: PreTrainedModel, *, seed: int) -> GeneratorNetwork:
        """A new network for a model, its weights drawn from a seed; at first it changes (almost) nothing."""


class GeneratorNetwork(nn.Module, ABC):
    """A generator's weights, for one model.

    Args:
        settings: What it was made from.
        model: The frozen model that it is for.
    """

    reads_hidden: ClassVar[bool] = False  # whether `TextStates.hidden` is needed
    stays_float32: ClassVar[bool] = True  # whatever the precision of the run

    def __init__(self, settings: Generator, model: PreTrainedModel) -> None:
        super().__init__()
        self.settings = settings
        targets = settings.targets(model)
        if settings.boosted_layers > len(targets):
            raise ConfigError(
                f"model.generator.boosted_layers must be at most {len(targets)}, the layers with adapters, got "
                f"{settings.boosted_layers}"
            )
        self.sizes = {target.name: (target.inputs, target.outputs) for target in targets}
        weights = {target.name: whole_weight(base_layer(target.module)) for target in targets}
        self.frozen_norms = {name: float(weight.detach().norm()) for name, weight in weights.items()}

    @property
    def scale(self) -> float:
        """What the product of an adapter's matrices counts."""
        return self.settings.alpha / self.settings.rank

    @abstractmethod
    def code(self, reading: TextStates) -> torch.Tensor:
        """What is written about each text, before any noise, (N, D); of the order of 1."""

    @abstractmethod
    def decode(self, code: torch.Tensor) -> Adapters:
        """The adapters of codes (N, D), without bound."""

    def forward(self, reading: TextStates) -> Adapters:
        """The adapters for some texts, within their bound."""
        return self.adapters(self.codes(reading))

    def codes(self, reading: TextStates) -> torch.Tensor:
        """The code of each text, (N, D), in float32 whatever the precision of the run."""
        with torch.autocast(reading.mask.device.type, enabled=False):
            return self.code(reading)

    def adapters(self, code: torch.Tensor) -> Adapters:
        """The adapters of codes (N, D), within their bound, and boosted."""
        with torch.autocast(code.device.type, enabled=False):
            return self._limited(self.decode(code))

    def _limited(self, adapters: Adapters) -> Adapters:
        bound = self.settings.bound
        if bound is not None:
            factors = {name: (bound / change).clamp(max=1.0) for name, change in self.changes(adapters).items()}
            adapters = rescaled(adapters, factors)
        if self.settings.boosted_layers:
            adapters = self.boosted(adapters, layers=self.settings.boosted_layers, factor=self.settings.boost)
        return adapters

    def boosted(self, adapters: Adapters, *, layers: int, factor: float) -> Adapters:
        """Adapters with so many layers' changes multiplied: in each adapter those of the largest (see `Generator`)."""
        changes = self.changes(adapters)
        table = torch.stack(list(changes.values())).detach()  # (layers, N)
        chosen = torch.zeros_like(table).scatter_(0, table.topk(layers, dim=0).indices, 1.0)
        return rescaled(adapters, dict(zip(changes, 1 + (factor - 1) * chosen, strict=True)))

    def changes(self, adapters: Adapters) -> dict[str, torch.Tensor]:
        """By layer, the norm of each adapter's change as a share of the frozen weight's norm, (N,)."""
        return {name: norm / self.frozen_norms[name] for name, norm in norms(adapters, scale=self.scale).items()}

    def drift(self, adapters: Adapters) -> torch.Tensor:
        """The penalty on each adapter, (N,): `drift` times the mean of the squared changes over its layers."""
        if not self.settings.drift:
            first, _ = next(iter(adapters.values()))
            return first.new_zeros(len(first))
        return self.settings.drift * torch.stack([change.square() for change in self.changes(adapters).values()]).mean(
            0
        )


def _checked_boost(layers: int, factor: float) -> tuple[int, float]:
    """Raises `ConfigError` unless both are set or neither."""
    check_count("model.generator.boosted_layers", layers, least=0)
    if not factor > 0:
        raise ConfigError(f"model.generator.boost must be above 0, got {factor}")
    if (factor != 1) != bool(layers):
        raise ConfigError(
            f"model.generator: boosted_layers and boost belong together, got {layers} layers and a boost of {factor}: "
            "set both, or neither"
        )
    return layers, factor


def rescaled(adapters: Adapters, factors: Mapping[str, torch.Tensor]) -> Adapters:
    """Adapters with each one's change in a layer multiplied by a factor of its own, (N,)."""
    return {name: (A, B * factors[name][:, None, None]) for name, (A, B) in adapters.items()}


def flat_rows(adapters: Adapters, names: Sequence[str], width: int) -> torch.Tensor:
    """Adapters as rows (N, P) of a bank of that width: for each layer A, then B, filled up with zeros."""
    parts: list[torch.Tensor] = []
    for name in names:
        for matrix in adapters[name]:
            filled = nn.functional.pad(matrix, (0, 0, 0, width - matrix.shape[1]))
            parts.append(filled.flatten(1))
    return torch.cat(parts, dim=1)


def norms(adapters: Adapters, *, scale: float) -> dict[str, torch.Tensor]:
    """The Frobenius norm of each layer's change, (N,), from r x r products."""
    return {name: scale * squared_norm(*pair).clamp_min(1e-20).sqrt() for name, pair in adapters.items()}


def squared_norm(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """‖Bᵀ A‖² of A (N, r, inputs) and B (N, r, outputs), (N,)."""
    return ((A @ A.mT) * (B @ B.mT)).sum(dim=(1, 2))


def not_finite(rows: torch.Tensor) -> Mapping[int, str]:
    """What is wrong with the adapters in rows (N, P), by number; empty where all are finite."""
    sound = rows.isfinite().all(dim=1).tolist()
    return {number: NOT_FINITE for number, fine in enumerate(sound) if not fine}
