"""Regularisers of the inner loop against forgetting: a penalty on drift, and protected directions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.slots import Regulariser
from seal_lightning.models.layers import Target
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class DriftPenalty(Regulariser):
    """KL divergence of the adapted policy from remembered predictions, a mean over tokens.

    Attributes:
        policy: The policy that is adapted.
        texts: Token ids.
        before: Log-probabilities of each text's next tokens, (T, V) each, on the CPU.
        weight: Weight of the penalty beside the loss.
        batch: Texts drawn for each step.
        seed: Seed of the draws.
    """

    policy: Policy
    texts: Tokens
    before: Sequence[torch.Tensor]
    weight: float
    batch: int
    seed: int

    def add_gradients(self, bank: AdapterBank, steps: Sequence[int]) -> None:
        for slot, step in enumerate(steps):
            draw = random.Random(derive_seed("drift", self.seed, step))
            chosen = draw.sample(range(len(self.texts)), min(self.batch, len(self.texts)))
            tokens = sum(len(self.texts[number]) for number in chosen)
            for number in chosen:
                row = torch.tensor([self.texts[number]], device=bank.device)
                with bank.routing(torch.tensor([slot])):
                    after = log_probabilities(self.policy, input_ids=row)
                    before = self.before[number].to(bank.device, torch.float32)
                    drift = torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum") / tokens
                    with torch.autocast(bank.device.type, enabled=False):  # which covers the forward pass alone
                        (self.weight * drift).backward()


@dataclass(frozen=True, slots=True)
class Protection(Regulariser):
    """Keeps the rows of A free of some directions of each layer's input, so the update cannot act on them."""

    directions: Mapping[str, torch.Tensor]  # by layer, orthonormal rows (k, inputs)

    def project(self, bank: AdapterBank, slots: Sequence[int]) -> None:
        for name, rows in self.directions.items():
            for slot in slots:
                lora_A = bank.A[name][slot]  # (r, inputs)
                with torch.autocast(bank.device.type, enabled=False):
                    lora_A -= (lora_A @ rows.T) @ rows


def log_probabilities(policy: Policy, **inputs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the token after each position of one row, (T, V), float32."""
    return policy.model(**inputs, use_cache=False).logits[0].float().log_softmax(dim=-1)


@torch.no_grad()
def predictions(policy: Policy, texts: Tokens) -> list[torch.Tensor]:
    """Log-probabilities of each text's next tokens, (T, V) each, in half precision on the CPU."""
    rows = (torch.tensor([text], device=policy.device) for text in texts)
    return [log_probabilities(policy, input_ids=row).half().cpu() for row in rows]


@torch.no_grad()
def inputs_of(policy: Policy, targets: Sequence[Target], texts: Tokens) -> dict[str, torch.Tensor]:
    """The inputs of each target layer for the texts' tokens, by its name, (tokens, inputs)."""
    seen: dict[str, list[torch.Tensor]] = {target.name: [] for target in targets}

    def note(name: str) -> Callable[[object, tuple[torch.Tensor, ...]], None]:
        return lambda module, args: seen[name].append(args[0].flatten(0, -2).float())

    handles = [target.module.register_forward_pre_hook(note(target.name)) for target in targets]
    try:
        for text in texts:
            policy.model(input_ids=torch.tensor([text], device=policy.device), use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def main_directions(rows: torch.Tensor, *, energy: float, most: float) -> torch.Tensor:
    """Orthonormal rows (k, inputs) that span this share of the squared norm of `rows`, but at most a share of all."""
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    share = values.square().cumsum(0) / values.square().sum().clamp_min(1e-30)
    needed = int((share < energy).sum()) + 1
    return directions[: min(needed, max(1, int(most * rows.shape[1])), int((values > 1e-6 * values[0]).sum()))]
