"""What a stream has added to the policy so far: merged into its weights, or stacked beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import torch

from seal_lightning.models.beside import beside, holds_updates
from seal_lightning.models.lora import LoRA, merge_lora, stack
from seal_lightning.policy.policy import Policy

Combine = Literal["merge", "stack"]


class Updates(ABC):
    """A policy that grows by LoRAs and can be reset to where it began.

    Args:
        policy: The policy at the beginning; its `learned` is what was merged into it before.

    Attributes:
        policy: The same model with the updates so far.
        added: The updates, in order.
    """

    def __init__(self, policy: Policy) -> None:
        self.added: list[LoRA] = []

        def learned() -> LoRA | None:
            parts = [*filter(None, [policy.learned()]), *self.added]
            return stack(parts) if parts else None

        self.policy = replace(policy, learned=learned)

    def add(self, lora: LoRA) -> None:
        self.added.append(lora)
        self._apply(lora)

    def clear(self) -> None:
        """Undo all updates, to the last bit."""
        self.added = []
        self._restore()

    @abstractmethod
    def _apply(self, lora: LoRA) -> None: ...

    @abstractmethod
    def _restore(self) -> None: ...


class Merged(Updates):
    """Adds every update to the weights, as in the paper, and keeps a copy of the changed layers on the CPU.

    Updates of layers that are quantised or in half precision act beside them.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._kept: dict[str, torch.Tensor] = {}
        self._beside = Stacked(policy)

    def _apply(self, lora: LoRA) -> None:
        for name in lora.layers:
            layer = self.policy.model.get_submodule(name)
            if not holds_updates(layer):
                self._beside.remember(name)
            elif name not in self._kept:
                self._kept[name] = layer.weight.detach().to("cpu", copy=True)
        merge_lora(self.policy.model, lora)

    @torch.no_grad()
    def _restore(self) -> None:
        for name, weight in self._kept.items():
            self.policy.model.get_submodule(name).weight.copy_(weight)
        self._beside.clear()


class Stacked(Updates):
    """Leaves the weights alone and adds every update's output to its layers', in float32."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._before: dict[str, int] = {}  # by layer, how many updates acted beside it

    def _apply(self, lora: LoRA) -> None:
        for name in lora.layers:
            self.remember(name)
            lora_A, lora_B = lora.matrices(name)
            beside(self.policy.model.get_submodule(name)).append(lora_A, lora.scale * lora_B.float())

    def remember(self, name: str) -> None:
        """Note what acts beside this layer now, so that what comes later can be undone."""
        self._before.setdefault(name, len(beside(self.policy.model.get_submodule(name)).parts))

    def _restore(self) -> None:
        for name, count in self._before.items():
            beside(self.policy.model.get_submodule(name)).keep(count)


UPDATES: dict[Combine, type[Updates]] = {"merge": Merged, "stack": Stacked}
