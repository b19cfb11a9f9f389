"""Fine-tune all weights of the model on one job, in place: continued pre-training as SEAL's second results have it.

The plan is an adapter's: the same batches, learning rates and mean loss of a step's tokens (arXiv 2506.10943, section
4.2; their later runs train all weights). Weights in half precision have copies in float32 that AdamW steps on, because
a step of 7e-5 is about what bfloat16 rounds away; the copies and moments make a training that goes on end with the bits
of one that was never broken off. On a GPU activations are computed again on the way back. One device; dropout that the
model has by itself is on, as in any fine-tuning.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.errors import ConfigError, NoMemoryError
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import pad, split_padded
from seal_lightning.inner_loop.plans import AdapterPlan, Encoded, JobStats
from seal_lightning.models.beside import is_quantised
from seal_lightning.models.finite import all_finite
from seal_lightning.models.memory import attempt, free_memory, make_room
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed
from seal_lightning.types import AdapterJob

log = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")  # of torch's AdamW
ADVICE = "take a smaller model, a larger GPU, or train a LoRA (--tuning lora)"


@dataclass(frozen=True, slots=True)
class WholeState:
    """Where the training of all weights stands: the next step, the last epoch's losses so far, and tensors by name.

    The tensors are the weights in float32 and AdamW's moments, on the CPU.
    """

    step: int
    loss: float
    tensors: dict[str, torch.Tensor]


def bytes_to_train(model: PreTrainedModel) -> int:
    """Bytes beside the weights that training them all takes: gradients, AdamW's moments, copies of half precision."""
    return sum(
        parameter.numel() * (parameter.element_size() + 8 + 4 * (parameter.dtype != torch.float32))
        for parameter in model.parameters()
    )


def whole_training(loop: InnerLoop, policy: Policy, job: AdapterJob) -> WholeTraining:
    """The training of a policy's weights with the settings of `loop`, but for those of LoRAs.

    Raises:
        ConfigError: The weights are quantised, or what they are trained towards needs a frozen teacher.
        NoMemoryError: The memory does not suffice for the optimizer.
    """
    model = policy.model
    plan, needed = loop.plan(policy, job), bytes_to_train(model)
    if plan.has_teacher:
        raise ConfigError(
            "together.objective: a teacher stays as it is, which weights that are all trained do not; expected sft"
        )
    if (free := free_memory(model.device)) < needed:
        raise NoMemoryError(
            f"training all weights takes {needed / 2**30:.1f} GiB beside them, and {free / 2**30:.1f} GiB are free: "
            f"{ADVICE}"
        )
    return WholeTraining(
        model,
        plan,
        max_tokens=loop.pass_tokens(model),
        max_norm=loop.gradient_clip or None,
        betas=loop.betas,
        weight_decay=loop.weight_decay,
        recompute=model.device.type != "cpu",
    )


class _Stepper:
    """AdamW on one parameter, or on its copy in float32."""

    def __init__(self, parameter: nn.Parameter, *, betas: tuple[float, float], weight_decay: float) -> None:
        self.parameter = parameter
        half = parameter.dtype != torch.float32
        self.trained = nn.Parameter(parameter.detach().float()) if half else parameter
        self.adamw = torch.optim.AdamW([self.trained], lr=0.0, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, rate: float, shrink: torch.Tensor) -> None:
        """One step with the gradient times `shrink`, float32 (); the gradient is gone afterwards."""
        if self.parameter.grad is None:
            return
        gradient = self.parameter.grad.float().mul_(shrink)
        self.parameter.grad = None
        self.trained.grad = gradient
        self.adamw.param_groups[0]["lr"] = rate
        self.adamw.step()
        self.trained.grad = None
        if self.trained is not self.parameter:
            self.parameter.copy_(self.trained)

    def tensors(self) -> dict[str, torch.Tensor]:
        known = self.adamw.state.get(self.trained, {})
        found = {"weight": self.trained.detach(), **{name: known[name] for name in MOMENTS if name in known}}
        return {name: tensor.to("cpu", copy=True) for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        self.trained.copy_(tensors["weight"])
        if self.trained is not self.parameter:
            self.parameter.copy_(self.trained)
        if MOMENTS[0] in tensors:
            moments = {name: tensors[name].to(self.trained.device) for name in MOMENTS}
            self.adamw.state[self.trained] = {"step": torch.tensor(float(step)), **moments}


class WholeTraining:
    """The training of all weights on one job.

    Args:
        model: Causal language model; its weights change.
        plan: What is trained, in which order and how fast.
        max_tokens: Tokens of one forward pass; a single longer sequence exceeds it.
        max_norm: Largest norm of the gradient; None for any.
        betas: Decay rates of AdamW's moments.
        weight_decay: Weight decay of AdamW.
        recompute: Whether to compute activations again on the way back instead of keeping them.

    Raises:
        ConfigError: The weights are quantised.
        NoMemoryError: The memory does not suffice for the optimizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        plan: AdapterPlan,
        *,
        max_tokens: int,
        max_norm: float | None,
        betas: tuple[float, float],
        weight_decay: float,
        recompute: bool,
    ) -> None:
        if is_quantised(model):
            raise ConfigError(
                "--tuning full: the weights of a quantised base cannot be trained; expected lora, or a base that is "
                "not quantised"
            )
        self.model, self.plan, self.max_tokens, self.max_norm = model, plan, max_tokens, max_norm
        self.recompute = recompute
        steppers, reason = attempt(
            lambda: {
                name: _Stepper(parameter, betas=betas, weight_decay=weight_decay)
                for name, parameter in model.named_parameters()
            }
        )
        if steppers is None:
            raise NoMemoryError(f"there is no memory to train all weights ({reason}): {ADVICE}")
        self.steppers = steppers
        self.head_loss = HeadLoss(model, adapted=set(), whole=True)

    def run(
        self,
        start: WholeState | None,
        *,
        every: int,
        keep: Callable[[WholeState], None],
        on_step: Callable[[int], None],
    ) -> JobStats:
        """Train to the end, or until a number is not finite: then the weights are of no use.

        Args:
            start: Where to go on; None to begin.
            every: Steps between two calls of `keep`.
            keep: Given where the training stands; may raise.
            on_step: Called with the number of steps made since the last call, or before a resume.
        """
        step, loss = self._restore(start) if start else (0, 0.0)
        on_step(step)
        last_epoch = self.plan.stats.steps - self.plan.epoch_steps
        with torch.enable_grad(), _trainable(self.model, recompute=self.recompute):
            while step < self.plan.stats.steps:
                mean, fault = self._step(step)
                if fault:
                    return self.plan.stats_at(step, loss, f"{fault} at step {step + 1} of {self.plan.stats.steps}")
                loss += mean if step >= last_epoch else 0.0
                step += 1
                on_step(1)
                if step % every == 0 and step < self.plan.stats.steps:
                    keep(self._state(step, loss))
        sound = all_finite(self.model.parameters())
        return self.plan.stats_at(step, loss, "" if sound else f"the weights are not finite after step {step}")

    def _step(self, step: int) -> tuple[float, str]:
        """The step's mean loss of a token, and what is not finite about it; then nothing was changed."""
        while True:
            torch.manual_seed(derive_seed("whole", self.plan.seed, step))  # dropout: the same after a resume
            gathered, reason = attempt(lambda: self._gather(self.plan.minibatch(step)))
            if gathered is not None:
                break
            self._make_room(step, reason)
        parameters = [stepper.parameter for stepper in self.steppers.values() if stepper.parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        mean, size = float(gathered), float(norm)
        if not math.isfinite(mean):
            return mean, f"the loss is {mean:g}"
        if not math.isfinite(size):
            return mean, f"the gradient's norm is {size:g}"
        shrink = (self.max_norm / (norm.float() + 1e-6)).clamp(max=1.0) if self.max_norm else torch.ones_like(norm)
        for stepper in self.steppers.values():
            stepper.step(self.plan.rates[step], shrink.float())
        return mean, ""

    def _gather(self, sequences: Sequence[Encoded]) -> torch.Tensor:
        """Put the gradients of a step into the parameters, a pass after the other; the mean loss of its tokens, ()."""
        self.model.zero_grad()
        total = torch.zeros((), device=self.model.device)
        packed = self.plan.packed(sequences, slot=0, said=_no_teacher)
        for rows in split_padded(packed, max_tokens=self.max_tokens):
            loss = self.head_loss(pad(rows).to(self.model.device)).sum()
            loss.backward()
            total += loss.detach()
        return total

    def _make_room(self, step: int, reason: str) -> None:
        self.model.zero_grad()
        make_room(self.model.device)
        lengths = [len(one.tokens) for one in self.plan.minibatch(step)]
        if (tokens := min(self.max_tokens, max(lengths) * len(lengths))) <= max(lengths):
            raise NoMemoryError(
                f"there is no memory to train all weights on a sequence of {max(lengths)} tokens ({reason}): {ADVICE}, "
                "or lower together.max_length"
            )
        self.max_tokens = max(max(lengths), tokens // 2)
        log.warning("out of memory: at most %d tokens a forward pass from now on", self.max_tokens)

    def _state(self, step: int, loss: float) -> WholeState:
        parts = {name: stepper.tensors() for name, stepper in self.steppers.items()}
        return WholeState(step, loss, {f"{part}.{name}": own[part] for name, own in parts.items() for part in own})

    def _restore(self, state: WholeState) -> tuple[int, float]:
        for name, stepper in self.steppers.items():
            named = {part: f"{part}.{name}" for part in ("weight", *MOMENTS)}
            own = {part: state.tensors[key] for part, key in named.items() if key in state.tensors}
            stepper.restore(own, state.step)
        return state.step, state.loss


def _no_teacher(sequence: Encoded) -> torch.Tensor:
    raise AssertionError("objectives with a teacher are refused")


def _recomputing(model: PreTrainedModel, what: str) -> Callable[..., None]:
    # transformers 5 has renamed it; the old name warns
    return getattr(model, f"activation_checkpointing_{what}", None) or getattr(model, f"gradient_checkpointing_{what}")


@contextmanager
def _trainable(model: PreTrainedModel, *, recompute: bool) -> Iterator[None]:
    """Within it all weights take gradients, and the model is in training mode; its flags are put back."""
    text = model.config.get_text_config()
    flags, use_cache = [parameter.requires_grad for parameter in model.parameters()], getattr(text, "use_cache", True)
    recompute = recompute and model.supports_gradient_checkpointing
    model.train().requires_grad_(True)
    if recompute:
        _recomputing(model, "enable")({"use_reentrant": False})
    text.use_cache = False
    try:
        yield
    finally:
        model.zero_grad()
        if recompute:
            _recomputing(model, "disable")()
        text.use_cache = use_cache
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        model.eval()
