"""The M-step in one process: fine-tuning of the policy on prompt -> edit (arXiv 2506.10943, section 3.1).

`seal fit` leaves the loop over batches to Lightning, which adds devices, ranks and checkpoints; the parts of a step are
these same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from seal_lightning.errors import ConfigError, DivergedError
from seal_lightning.m_step.batches import MStep, TaughtExamples, encode_taught, make_loader
from seal_lightning.m_step.references import reference_logps, with_references
from seal_lightning.models.finite import all_finite
from seal_lightning.models.kernels import planless_attention
from seal_lightning.models.products import quick_products
from seal_lightning.policy.tuned import TunedPolicy
from seal_lightning.seeding import derive_seed
from seal_lightning.types import EditOutcome, RolloutGroup


def make_optimizer(parameters: Iterable[nn.Parameter], settings: MStep, *, device: torch.device) -> torch.optim.AdamW:
    """The optimizer of a round, which steps on `device`."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    fused = True if device.type == "cpu" else None  # on a GPU Lightning could not clip scaled gradients then
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, betas=(0.9, 0.999), fused=fused)


def seed_batch(seed: int, round: int, number: int | None, *, device: torch.device) -> None:
    """Seed torch for a batch: dropout (GPT-2 has some of its own) must be the same after a resume, and on any rank.

    Args:
        seed: The run's seed.
        round: Counted from 0.
        number: Number of the batch in the round; None for one that counts for nothing.
        device: The policy's device.
    """
    drawn = derive_seed("m-step", seed, round, -1 if number is None else number)
    torch.default_generator.manual_seed(drawn)  # torch.manual_seed asks every back end, which takes 5 ms a batch
    if device.type == "cuda":
        with torch.cuda.device(device):  # which need not be the current one
            torch.cuda.manual_seed(drawn)


class FineTuning:
    """Fine-tunes a policy on the edits of a round, as `seal fit` does on one process.

    Args:
        settings: Learning rate, epochs and batch size.
        accumulate_grad_batches: Batches an optimizer step, where the settings have no effective batch.
        gradient_clip_val: Largest norm of the gradient; None for any.
    """

    def __init__(
        self,
        settings: MStep = MStep(),
        *,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
    ) -> None:
        self.settings = settings
        self.shares = settings.shares(1, accumulation=accumulate_grad_batches)
        self.gradient_clip_val = gradient_clip_val
        self._optimizer: torch.optim.AdamW | None = None

    def train(
        self,
        policy: TunedPolicy,
        kept: Sequence[EditOutcome],
        *,
        round: int,
        groups: Sequence[RolloutGroup] = (),
    ) -> list[float]:
        """Fine-tune the policy in place; returns the loss of each batch, none where there is nothing to learn.

        Args:
            policy: Changed in place.
            kept: The edits that were chosen.
            round: Counted from 0.
            groups: All edits by context, which every objective but `sft` compares.

        Raises:
            ConfigError: A prompt leaves no room for its edit, or an objective that compares edits has none.
            DivergedError: A loss or the policy's weights are not finite any more.
        """
        taught = self._taught(policy, kept, groups)
        if not taught:
            return []
        module, device, shares, goal = policy.module.train(), policy.view.device, self.shares, self.settings.goal
        batches, pad = self.settings.batches(len(taught)), policy.view.tokenizer.pad_token_id
        loader = make_loader(taught, pad=pad, settings=self.settings, seed=policy.seed, round=round, shares=shares)
        if self._optimizer is None or policy.tuning.round_start == "fresh":  # else the policy goes on with its adapter
            self._optimizer = make_optimizer(policy.module.parameters(), self.settings, device=device)
        losses: list[torch.Tensor] = []  # on the device, which is not waited for in between
        with planless_attention(device), quick_products(module):
            for place, batch in enumerate(loader):
                number = shares.number(place, batches)
                seed_batch(policy.seed, round, number, device=device)
                loss, _ = goal.batch_loss(module, {name: tensor.to(device) for name, tensor in batch.items()})
                (loss * shares.weight(number) / shares.accumulation).backward()
                losses += [] if number is None else [loss.detach()]
                if (place + 1) % shares.accumulation == 0:
                    self._step(self._optimizer, place // shares.accumulation, shares.steps(batches))
        return self._checked(policy, torch.stack(losses).tolist(), round=round)

    def _taught(
        self, policy: TunedPolicy, kept: Sequence[EditOutcome], groups: Sequence[RolloutGroup]
    ) -> list[TaughtExamples]:
        """What the round teaches, with the references that the objective asks for."""
        goal, size = self.settings.goal, self.settings.batch_size
        if goal.compares and kept and not groups:
            raise ConfigError(
                "FineTuning.train: expected groups, all edits of the round, for an objective that compares edits, got "
                "none: give group_rollouts(rollouts)"
            )
        taught = encode_taught(policy.view, goal.taught(groups, kept), settings=self.settings)
        if not goal.needs_reference or not taught:
            return taught
        with policy.frozen() as frozen:
            return with_references(taught, reference_logps(frozen, taught, batch_size=size))

    def _checked(self, policy: TunedPolicy, losses: list[float], *, round: int) -> list[float]:
        if not all_finite([torch.tensor(losses), *policy.trainable_state().values()]):
            raise DivergedError(
                f"round {round + 1}, M-step: the policy is not finite after {len(losses)} batches: lower the learning "
                f"rate, which is {self.settings.learning_rate:g}"
            )
        return losses

    def _step(self, optimizer: torch.optim.AdamW, step: int, steps: int) -> None:
        for group in optimizer.param_groups:
            if self.gradient_clip_val:
                nn.utils.clip_grad_norm_(group["params"], self.gradient_clip_val)
            group["lr"] = self.settings.learning_rate * self.settings.rate_factor(step, steps)
        optimizer.step()
        optimizer.zero_grad()
