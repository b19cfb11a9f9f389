"""What a stream has added to the policy so far: merged into its weights, or stacked beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch

from seal_lightning.adapters import LoRA, merge_lora, stack
from seal_lightning.policy import Policy

Combine = Literal["merge", "stack"]


class Updates(ABC):
    """A policy that grows by LoRAs, and can be taken back to where it began.

    Args:
        policy: Plain model; its `learned` is what was merged into it before.

    Attributes:
        policy: The same model with the updates so far.
        added: They, in order.
    """

    def __init__(self, policy: Policy) -> None:
        self.added: list[LoRA] = []
        self.policy = replace(policy, learned=lambda: self._learned(policy.learned))

    def add(self, lora: LoRA) -> None:
        self.added.append(lora)
        self._apply(lora)

    def clear(self) -> None:
        """Take all updates back, to the last bit."""
        self.added = []
        self._restore()

    def _learned(self, before: Callable[[], LoRA | None]) -> LoRA | None:
        parts = [*filter(None, [before()]), *self.added]
        return stack(parts) if parts else None

    @abstractmethod
    def _apply(self, lora: LoRA) -> None: ...

    @abstractmethod
    def _restore(self) -> None: ...


class Merged(Updates):
    """Adds every update to the weights, as the paper does; keeps a copy of the layers that it changes, on the CPU."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._kept: dict[str, torch.Tensor] = {}

    def _apply(self, lora: LoRA) -> None:
        for name in lora.layers:
            if name not in self._kept:
                self._kept[name] = self.policy.model.get_submodule(name).weight.detach().to("cpu", copy=True)
        merge_lora(self.policy.model, lora)

    @torch.no_grad()
    def _restore(self) -> None:
        for name, weight in self._kept.items():
            self.policy.model.get_submodule(name).weight.copy_(weight)


class Stacked(Updates):
    """Leaves the weights alone and adds every update's output to its layers', in float32."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}  # by layer, (in, r) and (r, out)
        self._hooks: dict[str, Any] = {}

    def _apply(self, lora: LoRA) -> None:
        for name in lora.layers:
            lora_A, lora_B = (lora.state[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
            down, up = lora_A.T.to(self.policy.device), lora.scale * lora_B.T.to(self.policy.device)
            self._parts.setdefault(name, []).append((down, up))
            if name not in self._hooks:
                layer = self.policy.model.get_submodule(name)
                self._hooks[name] = layer.register_forward_hook(self._add(self._parts[name]), prepend=True)

    def _restore(self) -> None:
        for hook in self._hooks.values():
            hook.remove()
        self._hooks, self._parts = {}, {}

    @staticmethod
    def _add(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        def add(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            x, total = args[0].float(), output.float()
            for down, up in parts:
                total = total + x @ down @ up
            return total.to(output.dtype)

        return add


UPDATES: dict[Combine, type[Updates]] = {"merge": Merged, "stack": Stacked}
