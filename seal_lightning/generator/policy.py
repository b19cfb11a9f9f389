"""The policy whose edits are weights: a frozen base model beside the generator, which alone is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seal_lightning.generator.base import Generator, GeneratorNetwork
from seal_lightning.generator.files import base_digests, save_generator
from seal_lightning.models.chat import ChatTemplate
from seal_lightning.policy.policy import Policy
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy, Weights, check_mergeable
from seal_lightning.tasks import Task


@dataclass(slots=True)
class GeneratingPolicy(Policy):
    """A policy that writes adapters, too.

    Attributes:
        network: The generator.
    """

    network: GeneratorNetwork = field(kw_only=True)


@dataclass(frozen=True)
class GeneratorTuning(PolicyTuning):
    """Trains a generator beside a base model that stays as it is.

    Args:
        generator: Its settings.
        task: Makes the texts that it reads; an export says so.
    """

    writes: ClassVar[Literal["texts", "adapters"]] = "adapters"

    generator: Generator = field(kw_only=True)
    task: Task | None = field(default=None, kw_only=True)

    def policy_of(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool | ChatTemplate,
        *,
        seed: int,
        reload: Callable[[], PreTrainedModel] | None = None,
    ) -> GeneratorPolicy:
        return GeneratorPolicy(model, tokenizer, chat, self, seed=seed)


class Generating(nn.Module):
    """The base model, frozen, and the generator."""

    def __init__(self, base: PreTrainedModel, network: GeneratorNetwork) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.network = network


class GeneratorPolicy(TunedPolicy):
    """A generator beside its base model, as a run trains it. No round is ever merged into the base."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool | ChatTemplate,
        tuning: GeneratorTuning,
        *,
        seed: int,
    ) -> None:
        self.network = tuning.generator.network(model, seed=seed)
        self.task = tuning.task
        super().__init__(model, tokenizer, chat, tuning, seed=seed)
        self.view: GeneratingPolicy = GeneratingPolicy(model, tokenizer, chat, network=self.network)
        self.base = base_digests(self.view)  # before a trainer converts the weights

    def wrapped(self, model: PreTrainedModel) -> nn.Module:
        return Generating(model, self.network)

    def restart_adapter(self, round: int) -> None:
        """Nothing: the generator goes on."""

    def end_round(self, round: int) -> bool:
        """Nothing is merged, and the optimizer goes on."""
        return False

    def adapter_state(self) -> Weights:
        """A copy of the generator's weights by name."""
        state = self.network.state_dict()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def learned(self) -> None:
        """The base is as it was."""

    def export(self, folder: Path, *, merged: bool = False, write: bool = True) -> None:
        """Write the generator and what it was made from, as `save_generator` does.

        Args:
            folder: Created if missing.
            merged: Must be off: there is nothing that could be merged into the base.
            write: False on all ranks but one.

        Raises:
            ConfigError: `merged` is on, or the generator's class cannot be imported elsewhere.
            SavingError: The folder cannot be written.
        """
        check_mergeable(self.tuning, merged)
        if write:
            save_generator(self.network, folder, policy=self.view, base=self.base, task=self.task)
