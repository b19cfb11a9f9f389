"""The loss of the tokens that count, without ever holding the logits of all of them.

The output layer of a small model is a fifth of its work and its logits are by far its largest tensor. Both passes are
done here a chunk of tokens at a time: since the output layer is frozen, the gradient of the hidden states can be made
together with the loss and the logits be thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.inner_loop.objectives import InnerObjective
from seal_lightning.inner_loop.packing import Section, TrainingBatch
from seal_lightning.models.beside import acts_beside, is_plain_weight
from seal_lightning.models.products import linear, linear_backward

_CHUNKS = {"cuda": 1 << 27}  # logits at a time; every chunk reads the whole output layer again
_CHUNK = 1 << 25  # on other devices


class _HeadLoss(torch.autograd.Function):
    """Weighted losses (S,) of hidden states (S, d) under a frozen output layer, and the teacher's states if any."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: nn.Linear,
        targets: torch.Tensor,
        weights: torch.Tensor,
        objective: InnerObjective,
        teacher: torch.Tensor | None,
    ) -> torch.Tensor:
        grad = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), device=hidden.device, dtype=torch.float32)
        columns = head.out_features * (1 if teacher is None else 2)
        size = max(1, _CHUNKS.get(hidden.device.type, _CHUNK) // columns)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = _logits(hidden[part], head)
            told = None if teacher is None else _logits(teacher[part], head)
            each, share = objective.with_gradients(logits, targets[part], told)
            losses[part] = each * weights[part]
            share.mul_(weights[part, None])
            grad[part] = linear_backward(share.to(head.weight.dtype), head.weight).to(grad.dtype)
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None, None, None


def _logits(states: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    return linear(states.to(head.weight.dtype), head.weight, head.bias).float()


class HeadLoss:
    """The loss of one model: by chunks if its output layer is a plain frozen one, else from whole logits.

    Args:
        model: Causal language model.
        adapted: Names of the layers that carry adapters.
        whole: Whether to take whole logits in any case.
    """

    def __init__(self, model: PreTrainedModel, *, adapted: set[str], whole: bool = False) -> None:
        self.model = model
        self.head = None if whole else _plain_head(model, adapted)

    def __call__(self, batch: TrainingBatch) -> torch.Tensor:
        """Weighted losses (S,) of the batch's targets."""
        states, sections = self.states(batch), batch.sections
        sizes = [section.count for section in sections]
        parts = zip(*(of.split(sizes) for of in (states, batch.targets, batch.weights)), sections, strict=True)
        with torch.autocast(states.device.type, enabled=False):  # it covers the model's forward pass alone
            losses = [self._losses(*part) for part in parts]
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def states(self, batch: TrainingBatch) -> torch.Tensor:
        """What targets are predicted from: hidden states (S, d), or logits (S, V) where no plain output layer is left.

        Those of the frozen model are a teacher's.
        """
        if self.head is None:
            return self.model(**batch.inputs, use_cache=False).logits.flatten(0, 1)[batch.positions].float()
        return self.model.base_model(**batch.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[batch.positions]

    def _losses(
        self, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, section: Section
    ) -> torch.Tensor:
        if self.head is not None:
            return _HeadLoss.apply(states, self.head, targets, weights, section.objective, section.teacher)  # type: ignore[return-value]
        return section.objective.losses(states, targets, section.teacher) * weights


@torch.no_grad()
def _plain_head(model: PreTrainedModel, adapted: set[str]) -> nn.Linear | None:
    """The output layer, where logits are that layer applied to the last hidden state and nothing else.

    Found out on a few tokens: what goes into the layer has to be the last hidden state, and what comes out of it the
    logits. Capped logits may look alike while they are small, so they are also looked for by name.
    """
    head = model.get_output_embeddings()
    names = {name for name, module in model.named_modules() if module is head}
    config = model.config.get_text_config().to_dict()
    capped = any("logit" in name and "cap" in name and value for name, value in config.items())
    if type(head) is not nn.Linear or not is_plain_weight(head.weight):
        return None
    if acts_beside(head) or names & adapted or capped:
        return None
    seen: list[Any] = []  # (input, output)
    handle = head.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    ids = torch.arange(1, 5, device=head.weight.device)[None] % head.out_features
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, AttributeError):  # of another shape than most
        return None
    finally:
        handle.remove()
    if len(seen) != 1:
        return None
    into, out = seen[0]
    return head if _equal(into, hidden) and _equal(out, logits) else None


def _equal(mine: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to what the precision rounds away."""
    if mine.shape != other.shape:
        return False
    atol = 4 * torch.finfo(mine.dtype).eps * float(mine.abs().max())
    return torch.allclose(mine.float(), other.float(), rtol=0.0, atol=atol)
