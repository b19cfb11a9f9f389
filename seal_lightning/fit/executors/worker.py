"""What does units in another process than the trainer's: the E-step on a replica of the policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from lightning.pytorch.plugins.precision import Precision

from seal_lightning.e_step.step import EStep
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.shared import SharedWeights
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.at_work import precise
from seal_lightning.policy.tuned import PolicyState, PolicyTuning, TunedPolicy, Weights
from seal_lightning.types import Context, Rollout


class UnitWorker:
    """A Ray actor: the E-step on a replica of the policy.

    It looks for a user's own graders and samplers in `paths`, if the node has these folders.
    """

    def __init__(
        self,
        source: ModelSource,
        tuning: PolicyTuning,
        seed: int,
        precision: Precision,
        device: str,
        threads: int,
        paths: Sequence[str] = (),
    ) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        torch.set_num_threads(threads)
        model, tokenizer, chat = load_model(source)
        self.base = fingerprint(model)
        self.policy = TunedPolicy(model.to(device), tokenizer, chat, tuning, seed=seed)
        self.policy.module = precision.convert_module(self.policy.module)
        self.precision = precision

    def refresh(self, state: PolicyState, e_step: EStep, round: int) -> str:
        """Take the policy of this phase; returns the fingerprint of its base."""
        self.policy.load_state(state)
        self.e_step, self.round = e_step, round
        return self.base

    def run(self, contexts: tuple[Context, ...]) -> list[Rollout]:
        """One unit."""
        with precise(self.precision), self.policy.frozen() as policy:
            return self.e_step.run(policy, contexts, round=self.round)


class SharingWorker:
    """The E-step of a process beside the trainer's, on the weights of the trainer's policy, in memory that both see.

    Args:
        source: The base model, from which everything is loaded but the weights.
        tuning: How the policy is trained.
        seed: Seed of the run.
        precision: The trainer's precision.
        weights: The policy's weights.
    """

    def __init__(
        self, source: ModelSource, tuning: PolicyTuning, seed: int, precision: Precision, weights: SharedWeights
    ) -> None:
        model, tokenizer, chat = load_model(source)
        self.policy = TunedPolicy(model, tokenizer, chat, tuning, seed=seed)
        self.policy.module = precision.convert_module(self.policy.module)
        self.precision = precision
        weights.use_in(self.policy.module)

    def prepare(self, merged: list[Weights], e_step: EStep, round: int) -> None:
        """Learn about a phase, whose policy is in the shared weights by now.

        Args:
            merged: The adapters of finished rounds, which the weights contain.
            e_step: What is done with a unit.
            round: The round, counted from 0.
        """
        self.policy.merged, self.e_step, self.round = merged, e_step, round

    def run(self, contexts: tuple[Context, ...]) -> list[Rollout]:
        """One unit."""
        with precise(self.precision), self.policy.frozen() as policy:
            return self.e_step.run(policy, contexts, round=self.round)
