"""REINFORCE: a generator learns from scores alone, whatever gives them (Williams 1992).

    code of a context + noise = a sample, an edit of the E-step -> its reward -> more of what earned more

The policy is a Gaussian around the code. A sample's noise is drawn from its attempt's seed, so it can be had again from
the network as it was and from the seed; nothing but rewards has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch

from seal_lightning.e_step.step import attempt_seed
from seal_lightning.errors import ConfigError
from seal_lightning.generator.lessons import Classroom, ScoredContext
from seal_lightning.generator.objectives import Objective
from seal_lightning.generator.reading import TextStates
from seal_lightning.generator.trials import drawn_noise

Baseline = Literal["others", "batch", "none"]


class Reinforce(Objective):
    """Makes the samples of a round's E-step (`e_step.edits` of each context) likelier the more they earned.

    The loss of a context is the mean of - advantage * log N(sample; code, noise²) over its samples. It is the code that
    learns: what makes adapters of codes has a gradient from `drift` alone.

    Where rewards are seldom anything but 0 and never below (`reward: improved`), several passes without a baseline move
    codes to the samples that earned something, which takes far fewer rollouts than a single pass with one.

    Args:
        noise: Standard deviation of the Gaussian around a code.
        baseline: What a reward is compared with: the mean of the context's `others`, of the `batch`, or `none`.
        normalise: Divide advantages by their standard deviation in the batch.
        clip: Hold the ratio of a sample's density to what it was when it was drawn within 1 ± clip (PPO), which several
            passes over a round want; null takes the plain gradient.
    """

    spares: ClassVar[bool] = True

    def __init__(
        self,
        *,
        noise: float = 0.3,
        baseline: Baseline = "others",
        normalise: bool = True,
        clip: float | None = None,
    ) -> None:
        if not noise > 0:
            raise ConfigError(f"model.objective.noise must be above 0, got {noise}")
        if baseline not in get_args(Baseline):
            raise ConfigError(
                f"model.objective.baseline must be one of {', '.join(get_args(Baseline))}, got {baseline!r}: use others"
            )
        if clip is not None and not 0 < clip < 1:
            raise ConfigError(f"model.objective.clip must be between 0 and 1, or null for none, got {clip}")
        self.noise, self.normalise, self.clip = noise, normalise, clip
        self.baseline: Baseline = baseline

    def loss(self, classroom: Classroom, lessons: Sequence[ScoredContext]) -> torch.Tensor:
        reading = classroom.read([lesson.context for lesson in lessons])
        codes = classroom.network.codes(reading)
        owners, noises = self._noises(classroom, lessons, codes)
        gains = advantages(
            torch.tensor([reward for lesson in lessons for reward in rewards_of(lesson)]),
            owners,
            baseline=self.baseline,
            normalise=self.normalise,
        ).to(codes)
        owners = owners.to(codes.device)
        samples = self._earlier_codes(classroom, reading)[owners] + self.noise * noises
        likelihoods = -(samples - codes[owners]).square().sum(dim=1) / (2 * self.noise**2)  # up to a constant
        surrogate = gains * likelihoods
        if self.clip is not None:
            ratios = (likelihoods + noises.square().sum(dim=1) / 2).exp()
            surrogate = torch.minimum(gains * ratios, gains * ratios.clamp(1 - self.clip, 1 + self.clip))
        counts = torch.bincount(owners, minlength=len(lessons)).clamp_min(1)
        losses = codes.new_zeros(len(lessons)).index_add(0, owners, -surrogate) / counts
        if classroom.network.settings.drift:
            losses = losses + classroom.drift(classroom.network.adapters(codes))
        return losses

    def _noises(
        self, classroom: Classroom, lessons: Sequence[ScoredContext], codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The context of each rewarded sample (S,), on the CPU, and the normal numbers it was drawn with (S, D).

        Raises:
            ConfigError: An edit has several repeats: as many samples with one reward.
        """
        owners: list[int] = []
        noises: list[torch.Tensor] = []
        for number, lesson in enumerate(lessons):
            for outcome in lesson.outcomes:
                if outcome.repeats > 1:
                    raise ConfigError(
                        f"model.e_step.repeats must be 1 where codes are explored, got {outcome.repeats}: each is "
                        "another sample; ask for more model.e_step.edits"
                    )
                if outcome.reward is None:
                    continue
                seed = attempt_seed(classroom.seed, classroom.round, lesson.context.id, outcome.edit_index)
                owners.append(number)
                noises.append(drawn_noise(seed, codes))
        drawn = torch.stack(noises) if noises else codes.new_zeros(0, codes.shape[1])
        return torch.tensor(owners, dtype=torch.long), drawn

    @torch.no_grad()
    def _earlier_codes(self, classroom: Classroom, reading: TextStates) -> torch.Tensor:
        """The codes around which the round's E-step explored, (N, D)."""
        assert classroom.earlier is not None, "what explores has kept the network that explored"
        return classroom.earlier.codes(reading)


def rewards_of(lesson: ScoredContext) -> list[float]:
    """What the samples of a context earned, without those that earned nothing since they diverged."""
    return [outcome.reward for outcome in lesson.outcomes if outcome.reward is not None]


def advantages(rewards: torch.Tensor, owners: torch.Tensor, *, baseline: Baseline, normalise: bool) -> torch.Tensor:
    """How much more each sample earned than was to be expected, (S,).

    The mean of the others is independent of a sample's own noise, so the expected gradient stays what it is; that of
    the batch, of which a sample is a part, scales it by 1 - 1 / S.

    Args:
        rewards: (S,).
        owners: The context of each, (S,).
        baseline: See `Reinforce`; a sample without others is compared with itself, and teaches nothing.
        normalise: Whether to divide by their standard deviation; those that are all alike stay zero.
    """
    gains = rewards.clone()
    if baseline == "batch" and len(rewards):
        gains -= rewards.mean()
    elif baseline == "others" and len(rewards):
        contexts = int(owners.max()) + 1
        counts = torch.bincount(owners, minlength=contexts)
        means = torch.zeros(contexts).index_add(0, owners, rewards) / counts.clamp_min(1)
        others = (counts - 1)[owners]
        gains = (rewards - means[owners]) * (counts[owners] / others.clamp_min(1))
    spread = gains.square().mean().sqrt() if len(gains) else gains.sum()
    return gains / spread if normalise and spread > 0 else gains
