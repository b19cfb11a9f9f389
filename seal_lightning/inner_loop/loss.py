"""Cross-entropy of the tokens that count, without ever holding the logits of all of them.

The output layer of a small model is a fifth of its work and its logits are by far its largest tensor. Both passes are
done here a chunk of tokens at a time: since the output layer is frozen, the gradient of the hidden states can be made
together with the loss and the logits be thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from seal_lightning.inner_loop.packing import TrainingBatch
from seal_lightning.models.beside import acts_beside, is_plain_weight
from seal_lightning.models.products import linear, linear_backward

_CHUNKS = {"cuda": 1 << 27}  # logits at a time; every chunk reads the whole output layer again
_CHUNK = 1 << 25  # on other devices


class _HeadLoss(torch.autograd.Function):
    """Weighted losses (S,) of hidden states (S, d) under a frozen output layer."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        grad = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), device=hidden.device, dtype=torch.float32)
        size = max(1, _CHUNKS.get(hidden.device.type, _CHUNK) // head.out_features)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            logits = linear(hidden[part].to(head.weight.dtype), head.weight, head.bias).float()
            logp = torch.log_softmax(logits, dim=-1)
            picked = targets[part, None]
            losses[part] = -logp.gather(1, picked).squeeze(1) * weights[part]
            share = logp.exp_()
            share.scatter_add_(1, picked, torch.full_like(picked, -1.0, dtype=share.dtype))
            share.mul_(weights[part, None])
            grad[part] = linear_backward(share.to(head.weight.dtype), head.weight).to(grad.dtype)
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None


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

    def __call__(
        self, batch: dict[str, torch.Tensor], positions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted losses (S,) of the tokens after `positions` of the flattened batch."""
        if self.head is None:
            logits = self.model(**batch, use_cache=False).logits.flatten(0, 1)[positions].float()
            with torch.autocast(logits.device.type, enabled=False):  # autocast covers the forward pass alone
                return functional.cross_entropy(logits, targets, reduction="none") * weights
        hidden = self.model.base_model(**batch, use_cache=False).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            return _HeadLoss.apply(hidden.flatten(0, 1)[positions], self.head, targets, weights)  # type: ignore[return-value]


class _HeadDivergence(torch.autograd.Function):
    """Weighted KL divergences (S,) of a frozen output layer's distributions for hidden states from a teacher's."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: nn.Linear,
        teacher: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        grad = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), device=hidden.device, dtype=torch.float32)
        size = max(1, _CHUNKS.get(hidden.device.type, _CHUNK) // (2 * head.out_features))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            mine, others = (
                torch.log_softmax(
                    linear(states.to(head.weight.dtype), head.weight, head.bias).float() / temperature, -1
                )
                for states in (hidden[part], teacher[part])
            )
            share = others.exp()
            losses[part] = (share * (others - mine)).sum(dim=-1) * weights[part]
            wrong = mine.exp_().sub_(share).mul_(weights[part, None] / temperature)
            grad[part] = linear_backward(wrong.to(head.weight.dtype), head.weight).to(grad.dtype)
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None, None


class TeacherLoss:
    """KL(teacher ‖ model) of next tokens, where the teacher is the same frozen model on other texts.

    Of the teacher only hidden states are kept, (S, d); its distributions are made from them a chunk at a time, as the
    model's own are.

    Args:
        model: Causal language model.
        adapted: Names of the layers that carry adapters.
        temperature: Both distributions are softened by it.
    """

    def __init__(self, model: PreTrainedModel, *, adapted: set[str], temperature: float = 1.0) -> None:
        self.model, self.temperature = model, temperature
        self.head = _plain_head(model, adapted)
        self.teacher = torch.empty(0)

    @torch.no_grad()
    def listen(self, batches: Iterable[TrainingBatch]) -> None:
        """Make what the model says in place of the batches' targets, one after the other, the teacher's, (S,)."""
        self.teacher = torch.cat([self._states(batch.inputs, batch.positions) for batch in batches])

    def _states(self, batch: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """The hidden states (S, d) at some positions, or the logits (S, V) where more than the output layer is left."""
        if self.head is None:
            return self.model(**batch, use_cache=False).logits.flatten(0, 1)[positions].float()
        return self.model.base_model(**batch, use_cache=False).last_hidden_state.flatten(0, 1)[positions]

    def __call__(
        self, batch: dict[str, torch.Tensor], positions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted losses (S,) after `positions` of the flattened batch; `targets` are numbers of the teacher's."""
        states = self._states(batch, positions)
        with torch.autocast(states.device.type, enabled=False):
            teacher = self.teacher[targets]
            if self.head is not None:
                return _HeadDivergence.apply(states, self.head, teacher, weights, self.temperature)  # type: ignore[return-value]
            mine, others = (torch.log_softmax(logits / self.temperature, dim=-1) for logits in (states, teacher))
            return (others.exp() * (others - mine)).sum(dim=-1) * weights


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
