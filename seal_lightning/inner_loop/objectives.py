"""What an adapter is trained towards: next tokens, the frozen model with the passage before it, or both.

A passage teaches more than the words that an edit happens to use: the same model with the passage in its context says
how likely every other word would have been. An adapter that learns these distributions forgets less of what it is not
taught (context distillation: arXiv 2412.14964, 2503.08727, 2601.19897). An objective sees logits a chunk of tokens at a
time, so that nothing ever holds those of a whole vocabulary for many tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch

from seal_lightning.errors import ConfigError
from seal_lightning.stamps.arguments import Remembers


class InnerObjective(Remembers, ABC):
    """The loss of single tokens. Your own derives from it and says `losses`; gradients are then taken by autograd.

    Attributes:
        from_teacher: Whether the loss needs what the frozen model says in place of the token with the source before it;
            only tokens of the training sequence that the teacher can be asked about then count.
    """

    from_teacher: ClassVar[bool] = False

    @abstractmethod
    def losses(self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        """The loss of each token.

        Args:
            logits: What the adapted model says, (n, V), float32; may be overwritten.
            targets: The tokens of the training sequence, (n,).
            teacher: The teacher's logits, (n, V), where the objective is `from_teacher`; may be overwritten.

        Returns:
            (n,), float32.
        """

    def with_gradients(
        self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each token, (n,), and its gradient by the token's logits, (n, V)."""
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            losses = self.losses(leaf * 1.0, targets, teacher)
            (gradients,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradients


class NextToken(InnerObjective):
    """Cross-entropy of the training sequences' own tokens: supervised fine-tuning, as in the paper."""

    def losses(self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def with_gradients(
        self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp, picked = torch.log_softmax(logits, dim=-1), targets[:, None]
        losses = -logp.gather(1, picked).squeeze(1)
        share = logp.exp_()
        return losses, share.scatter_add_(1, picked, torch.full_like(picked, -1.0, dtype=share.dtype))


class Distillation(InnerObjective):
    """KL(teacher ‖ adapted model), where the teacher is the frozen model with the edit's source in its context.

    Args:
        temperature: Both distributions are softened by it.
    """

    from_teacher = True

    def __init__(self, *, temperature: float = 1.0) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigError(f"temperature of a distillation must be above 0 and finite, got {temperature}: try 1")
        self.temperature = temperature

    def losses(self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        mine, others = self._distributions(logits, teacher)
        return (others.exp() * (others - mine)).sum(dim=-1)

    def with_gradients(
        self, logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mine, others = self._distributions(logits, teacher)
        share = others.exp()
        losses = (share * (others - mine)).sum(dim=-1)
        return losses, mine.exp_().sub_(share).div_(self.temperature)

    def _distributions(self, logits: torch.Tensor, teacher: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert teacher is not None, "a distillation has a teacher"
        mine, others = (torch.log_softmax(each / self.temperature, dim=-1) for each in (logits, teacher))
        return mine, others


# One object of each, so that adapters with the same objective share their passes.
OBJECTIVES: Mapping[str, InnerObjective] = MappingProxyType({"sft": NextToken(), "distill": Distillation()})

if TYPE_CHECKING:
    ObjectiveOption: TypeAlias = str | InnerObjective | Mapping[str, float]
else:  # what jsonargparse can read
    ObjectiveOption = InnerObjective | str | dict[str, float]


def weighted(option: ObjectiveOption, *, where: str) -> tuple[tuple[InnerObjective, float], ...]:
    """The objectives that an option names, each with its weight.

    Args:
        option: A short name, weights by short name, or an objective.
        where: The option's name, for messages.

    Raises:
        ConfigError: A name is unknown, or a weight is not a positive number.
    """
    if isinstance(option, InnerObjective):
        return ((option, 1.0),)
    weights: Mapping[str, object] = option if isinstance(option, Mapping) else {option: 1.0}
    if not weights:
        raise ConfigError(f"{where} must name an objective, got none: try sft")
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            allowed = ", ".join(OBJECTIVES)
            raise ConfigError(
                f"{where} must be one of {allowed}, weights of them, or an InnerObjective, got {name!r}: use a name or "
                "a class_path"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{where} must have weights above 0, got {name}: {weight!r}: leave out what is not meant")
    return tuple((OBJECTIVES[name], float(weight)) for name, weight in weights.items())  # type: ignore[arg-type]


def needs_source(objectives: Iterable[tuple[InnerObjective, float]]) -> bool:
    """Whether any of the objectives has a teacher, who reads the source."""
    return any(objective.from_teacher for objective, _ in objectives)
