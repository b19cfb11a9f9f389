"""What the M-step trains the policy towards; `model.m_step.objective` names one, `docs/m_step.md` says which when.

    sft       Imitation          the kept edits, each alike (ReST-EM, arXiv 2506.10943, section 3.1)
    weighted  WeightedImitation  all scored edits, each by its advantage (arXiv 1910.00177)
    dpo       DPO                the best edit of a context against its worst (arXiv 2305.18290)
    grpo      GRPO               clipped policy gradient on all scored edits (arXiv 2402.03300)

Losses are those of TRL. "The round's start" is the policy that wrote the edits: `references.py` asks it once a round.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from seal_lightning.errors import ConfigError
from seal_lightning.m_step.selection import Scale, advantages, best_and_worst, scored_edits
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import EditOutcome, RolloutGroup

IGNORED = -100  # label of tokens without loss, torch's convention
Figures = dict[str, torch.Tensor]  # numbers of a batch by name, () each
LossType = Literal["grpo", "dr_grpo"]


@dataclass(frozen=True, slots=True)
class Taught:
    """What counts as one in a batch of the M-step: an edit, or several that are compared.

    Attributes:
        outcomes: The edits, of one context; as many in all that an objective makes of a round.
        value: A number for the loss, such as a weight or an advantage.
    """

    outcomes: tuple[EditOutcome, ...]
    value: float = 1.0


@dataclass(frozen=True, slots=True)
class EditTokens:
    """What a loss is made of. A batch of B `Taught` with E edits each has N = B * E rows, those of one after another.

    Column t is about token t + 1, which the tokens up to t predict; rows are padded to the longest.

    Attributes:
        logps: (N, T) log-probabilities of the policy in training, float32, differentiable; 0 beside the edits.
        mask: (N, T) 1.0 on the tokens of an edit and on the one that ends it, 0.0 on prompts and padding.
        reference: (N, T) the same of the policy at the round's start, without gradient; zeros where the objective has
            `needs_reference = False`.
        values: (B,) the `value` of each `Taught`.
    """

    logps: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor


class MStepObjective(Remembers, ABC):
    """What the policy is trained towards. One of your own says what of a round is taught, and the loss of a batch:

    >>> class Unlikely(MStepObjective):
    ...     needs_reference = False
    ...     def taught(self, groups, kept):
    ...         poor = [edit for group in groups for edit in group.outcomes if edit.reward == 0]
    ...         return [Taught((edit,)) for edit in poor]
    ...     def loss(self, tokens):
    ...         likely = tokens.logps.exp()
    ...         return (likely * tokens.mask).sum() / tokens.mask.sum(), {}
    >>> tokens = EditTokens(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1))
    >>> Unlikely().loss(tokens)
    (tensor(1.), {})

    Attributes:
        compares: Whether all scored edits of a context are learnt from, by their rewards, and not the kept ones alone.
        needs_reference: Whether the loss reads `EditTokens.reference`.
        figures: Names of what `loss` returns beside the loss, each logged as `m_step/NAME`.
    """

    compares: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def taught(self, groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]) -> list[Taught]:
        """What a round teaches, in a fixed order; none where there is nothing to learn.

        Args:
            groups: All edits of the round by context, with rewards as the filter lets them be compared.
            kept: The edits that the filter chose.
        """

    @abstractmethod
    def loss(self, tokens: EditTokens) -> tuple[torch.Tensor, Figures]:
        """The loss of a batch, (), and figures for the log, () each and without gradient."""

    def batch_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Figures]:
        """The loss of a batch of `make_loader` and its figures."""
        logps, mask = edit_logps(model, batch)
        reference = batch["reference"] if "reference" in batch else torch.zeros_like(logps)
        return self.loss(EditTokens(logps, mask, reference, batch["values"]))

    def check(self, *, k: int | None, scored: int) -> None:
        """Raise `ConfigError` where `scored` edits a context, of which `k` are kept, leave nothing to compare."""
        del k
        if self.compares and scored < 2:
            raise ConfigError(
                f"model.m_step.objective: {name_of(self)} compares the edits of a context, and {scored} of them has a "
                "reward: raise model.e_step.edits (or model.e_step.racing.keep), or use sft"
            )


def edit_logps(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the edits' tokens and their mask, both (N, T) as in `EditTokens`."""
    labels = batch["labels"][:, 1:]
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = model(**given, use_cache=False).logits[:, :-1].float()
    mask = (labels != IGNORED).float()
    chosen = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (chosen - logits.logsumexp(-1)) * mask, mask


class Imitation(MStepObjective):
    """Cross-entropy of the kept edits, mean over a batch's tokens: ReST-EM, the paper's."""

    compares = False
    needs_reference = False

    def taught(self, groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]) -> list[Taught]:
        return [Taught((outcome,)) for outcome in kept]

    def loss(self, tokens: EditTokens) -> tuple[torch.Tensor, Figures]:
        return -(tokens.logps * tokens.mask).sum() / tokens.mask.sum(), {}

    def batch_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Figures]:
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        return model(**given, use_cache=False).loss, {}


class WeightedImitation(MStepObjective):
    """Cross-entropy of all scored edits, each token weighted by exp(A / beta): advantage-weighted regression.

    A is an edit's reward less the mean of its context, divided by their standard deviation. Weights are at most `most`,
    then divided by their mean over the round, so that with equal rewards it is `sft` on all scored edits.

    Args:
        beta: Temperature: a small one learns from the best edits alone, a large one from all alike.
        most: Largest weight before they are divided by their mean.
    """

    needs_reference = False

    def __init__(self, *, beta: float = 1.0, most: float = 20.0) -> None:
        _check_above(beta=beta, most=most)
        self.beta, self.most = beta, most

    def taught(self, groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]) -> list[Taught]:
        edits = scored_edits(groups, kept)
        gains = torch.tensor(advantages(edits, scale="group"), dtype=torch.float64)
        weights = (gains / self.beta).exp().clamp_max(self.most).tolist()
        outcomes = [outcome for group in edits for outcome in group]
        return [Taught((one,), weight / fmean(weights)) for one, weight in zip(outcomes, weights, strict=True)]

    def loss(self, tokens: EditTokens) -> tuple[torch.Tensor, Figures]:
        return -(tokens.values[:, None] * tokens.logps * tokens.mask).sum() / tokens.mask.sum(), {}


class DPO(MStepObjective):
    """Direct preference optimisation, the sigmoid loss: of each context the best kept edit against the worst other.

    A context teaches nothing where the filter keeps none of its edits, or no other has a lower reward.

    Args:
        beta: How much the policy is held to that of the round's start.
    """

    figures = ("preference_accuracy", "margin")

    def __init__(self, *, beta: float = 0.1) -> None:
        _check_above(beta=beta)
        self.beta = beta

    def taught(self, groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]) -> list[Taught]:
        pairs = [best_and_worst(edits, kept) for edits in scored_edits(groups, kept)]
        return [Taught(pair) for pair in pairs if pair is not None]

    def check(self, *, k: int | None, scored: int) -> None:
        super().check(k=k, scored=scored)
        if k is not None and k >= scored:
            raise ConfigError(
                f"filter.k must be below the {scored} edits of a context that have a reward where "
                f"model.m_step.objective is dpo, got {k}: no other edit is left to be the worse one"
            )

    def loss(self, tokens: EditTokens) -> tuple[torch.Tensor, Figures]:
        better, worse = ((tokens.logps - tokens.reference) * tokens.mask).sum(1).view(-1, 2).unbind(1)  # (B,) each
        margins = self.beta * (better - worse)
        told = margins.detach()
        figures = {"preference_accuracy": (told > 0).float().mean(), "margin": told.mean()}
        return -F.logsigmoid(margins).mean(), figures


class GRPO(MStepObjective):
    """Group-relative policy optimisation on the E-step's edits: a context's scored edits are a group.

    Each token of an edit counts - min(r A, clip(r) A) + beta KL. r is its probability over that at the round's start,
    which is also what KL is estimated to (k3), and A the edit's advantage in its group. Contexts whose rewards are all
    alike teach nothing and are left out.

    Args:
        beta: Weight of the KL term; 0 leaves it out.
        epsilon: Ratios are clipped to 1 ± epsilon.
        scale_rewards: Divide advantages by the standard deviation of rewards: of their `group`, of the `batch` (all of
            the round), or `none`.
        loss_type: `grpo` is the mean over each edit's tokens, then over edits; `dr_grpo` (arXiv 2503.20783) divides
            each edit's sum by `max_completion_length`, so that long edits count as much a token as short ones.
        max_completion_length: Tokens that `dr_grpo` divides by; the sampler's `max_new_tokens`.
    """

    figures = ("kl", "clip_fraction", "ratio")

    def __init__(
        self,
        *,
        beta: float = 0.04,
        epsilon: float = 0.2,
        scale_rewards: Scale = "group",
        loss_type: LossType = "grpo",
        max_completion_length: int = 256,
    ) -> None:
        _check_above(epsilon=epsilon, max_completion_length=max_completion_length)
        if not 0 <= beta < math.inf:
            raise ConfigError(f"model.m_step.objective.beta must be 0 or more and finite, got {beta}")
        for name, given, allowed in (("scale_rewards", scale_rewards, Scale), ("loss_type", loss_type, LossType)):
            if given not in get_args(allowed):
                listed = ", ".join(get_args(allowed))
                raise ConfigError(f"model.m_step.objective.{name} must be one of {listed}, got {given!r}: use one")
        self.beta, self.epsilon = beta, epsilon
        self.scale_rewards: Scale = scale_rewards
        self.loss_type: LossType = loss_type
        self.max_completion_length = max_completion_length

    def taught(self, groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]) -> list[Taught]:
        edits = scored_edits(groups, kept)
        outcomes = [outcome for group in edits for outcome in group]
        gains = dict(zip(outcomes, advantages(edits, scale=self.scale_rewards), strict=True))
        told = [group for group in edits if any(gains[outcome] for outcome in group)]
        return [Taught((outcome,), gains[outcome]) for group in told for outcome in group]

    def loss(self, tokens: EditTokens) -> tuple[torch.Tensor, Figures]:
        behind = tokens.reference - tokens.logps
        ratios, gains, count = (-behind).exp(), tokens.values[:, None], tokens.mask.sum(1)
        low, high = 1 - self.epsilon, 1 + self.epsilon
        per_token = -torch.minimum(ratios * gains, ratios.clamp(low, high) * gains)
        kl = behind.exp() - behind - 1
        if self.beta:
            per_token = per_token + self.beta * kl
        sums = (per_token * tokens.mask).sum(1)
        divisors = count if self.loss_type == "grpo" else self.max_completion_length
        clipped = (ratios < low) & (gains < 0) | (ratios > high) & (gains > 0)
        figures = {"kl": kl, "clip_fraction": clipped.float(), "ratio": ratios}
        means = {name: (value.detach() * tokens.mask).sum() / count.sum() for name, value in figures.items()}
        return (sums / divisors).mean(), means


def _check_above(**options: float) -> None:
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"model.m_step.objective.{name} must be above 0 and finite, got {value}")


OBJECTIVES: dict[str, type[MStepObjective]] = {
    "sft": Imitation,
    "weighted": WeightedImitation,
    "dpo": DPO,
    "grpo": GRPO,
}


def resolve_objective(objective: str | MStepObjective) -> MStepObjective:
    """The objective of that short name with its default options; an objective is given back as it is."""
    if isinstance(objective, MStepObjective):
        return objective
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        allowed = ", ".join(OBJECTIVES)
        raise ConfigError(
            f"model.m_step.objective must be one of {allowed} or an MStepObjective, got {objective!r}: use a name or a "
            "class_path"
        )
    return OBJECTIVES[objective]()


def name_of(objective: MStepObjective) -> str:
    """An objective's short name, or the class of one that has none."""
    kind = type(objective)
    return next((name for name, known in OBJECTIVES.items() if kind is known), kind.__name__)
