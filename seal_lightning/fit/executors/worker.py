"""What does units in another process than the trainer's: the E-step on a replica of the policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from lightning.pytorch.plugins.precision import Precision

from seal_lightning.data.base import Unit
from seal_lightning.e_step.filling import units_that_fill
from seal_lightning.e_step.step import EStep
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.shared import SharedWeights
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.at_work import precise
from seal_lightning.policy.tuned import PolicyState, PolicyTuning, Weights
from seal_lightning.types import Rollout


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
        self.policy = tuning.policy_of(model.to(device), tokenizer, chat, seed=seed)
        with sparing_float32(self.policy.module):
            self.policy.module = precision.convert_module(self.policy.module)
        self.precision = precision

    def refresh(self, state: PolicyState, e_step: EStep, round: int, largest: Unit) -> tuple[str, int]:
        """Take the policy of this phase; returns the fingerprint of its base, and how many units fill the device."""
        self.policy.load_state(state)
        self.e_step, self.round = e_step, round
        with precise(self.precision), self.policy.frozen() as policy:
            return self.base, units_that_fill(e_step, policy, [largest])

    def run(self, units: Sequence[Unit]) -> list[list[Rollout]]:
        """Some units together."""
        with precise(self.precision), self.policy.frozen() as policy:
            return self.e_step.run_together(policy, units, round=self.round)


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
        self.policy = tuning.policy_of(model, tokenizer, chat, seed=seed)
        with sparing_float32(self.policy.module):
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

    def run(self, contexts: Unit) -> list[Rollout]:
        """One unit."""
        with precise(self.precision), self.policy.frozen() as policy:
            return self.e_step.run(policy, contexts, round=self.round)
