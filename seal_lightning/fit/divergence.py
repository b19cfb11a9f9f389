"""What is not finite of a policy during its M-step: it goes no further, and nothing of it is saved."""

from __future__ import annotations

import torch

from seal_lightning.errors import DivergedError
from seal_lightning.fit.base import FitModule
from seal_lightning.m_step.batches import encode_example
from seal_lightning.models.finite import all_finite, rows_finite
from seal_lightning.models.partitioned import is_partitioned
from seal_lightning.policy.at_work import policy_at_work

PARTS = ("", "loss is", "gradient is", "weights are", "logits are", "adapters are")  # for ranks to agree by number


class Divergence:
    """Watches the optimizer steps of a module."""

    def __init__(self, module: FitModule) -> None:
        self.module = module
        self.losses: list[torch.Tensor] = []  # of this rank, in the optimizer step at hand
        self._gradient_norms: list[torch.Tensor] = []
        self._trained: list[torch.Tensor] = []

    def begin(self) -> None:
        """An M-step begins, or goes on: what is trained is looked up once, which takes longer than a look at it."""
        self._trained = list(self.module.policy.trainable_state().values())

    def note_gradient(self) -> None:
        """Remember the gradient's norm, unless a loss scaler looks at gradients itself and skips what overflows."""
        gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        scaled = getattr(self.module.trainer.precision_plugin, "scaler", None) is not None
        self._gradient_norms = [torch.nn.utils.get_total_norm(gradients)] if gradients and not scaled else []

    def check_step(self) -> None:
        """Look at a step's losses, gradient and weights. Raises `DivergedError` on all ranks for any rank's."""
        losses, self.losses = self.losses, []
        weights = [getattr(value, "ds_tensor", value) for value in self._trained]
        parts = {"loss is": losses, "gradient is": self._gradient_norms, "weights are": weights}
        self.stop_if(next((name for name, tensors in parts.items() if not all_finite(tensors)), ""))

    @torch.no_grad()
    def check_policy(self) -> None:
        """Check that the policy can still be asked, now that its M-step has changed it; a collective.

        Finite weights may be so large that nothing finite comes of them. Weights that are spread over the ranks are
        not looked at: to ask such a policy, all of it would have to be loaded again.

        Raises:
            DivergedError: Its logits for a kept edit are not finite.
        """
        module = self.module
        if not module.kept or any(map(is_partitioned, module.policy.module.parameters())):
            return
        shortest = min(module.kept, key=lambda outcome: len(outcome.prompt) + len(outcome.text))
        with policy_at_work(module.trainer, module) as policy:
            limit = min(module.m_step.max_length, policy.window)
            example = encode_example(policy, shortest.prompt, shortest.text, max_length=limit)
            ids = torch.tensor([example.input_ids], device=policy.device)
            finite = rows_finite(policy.model(input_ids=ids, use_cache=False).logits[0])
        self.stop_if("" if bool(finite.all()) else "logits are")

    def stop_if(self, what: str) -> None:
        """Raises `DivergedError` on all ranks where any of them names what is not finite."""
        module, trainer = self.module, self.module.trainer
        number = trainer.processes.largest(PARTS.index(what))
        if not number:
            return
        step = trainer.fit_loop.epoch_loop.batch_idx // trainer.accumulate_grad_batches + 1
        raise DivergedError(
            f"round {module.current_epoch + 1}, M-step: the policy's {PARTS[number]} not finite in optimizer step "
            f"{step} of {module.optimizer_steps}, model.m_step.learning_rate={module.m_step.learning_rate:g}: nothing "
            f"of it was saved, checkpoints and policy of {trainer.default_root_dir} are those from before; start again "
            "in another folder with a lower learning rate, or a precision of more range"
        )
