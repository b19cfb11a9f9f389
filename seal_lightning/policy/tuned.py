"""The policy under fine-tuning: how a round changes the model that writes self-edits for good.

`PolicyTuning` says how the M-step fine-tunes it: LoRA (default, all linear layers) or all weights. After a round, a
`fresh` LoRA is merged into its base layers in place and drawn anew, as in the paper. The parameters stay the same
objects, so DDP and DeepSpeed engines stay valid. Layers that are quantised or in half precision keep their weights and
carry the LoRA beside them. What was merged is kept as a stack of small adapters, so checkpoints and exports never hold
the base weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.saving import whole_files
from seal_lightning.models.beside import add_update, base_layer, holds_updates, is_quantised, note_shared
from seal_lightning.models.chat import ChatTemplate
from seal_lightning.models.coverage import unreached
from seal_lightning.models.layers import linear_layers
from seal_lightning.models.lora import LoRA, carried, save_lora, save_whole, stack, transposed, whole_state
from seal_lightning.models.partitioned import copy_weights, is_partitioned, whole
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed

Weights = dict[str, torch.Tensor]  # parameters by name


@dataclass(frozen=True)
class PolicyTuning:
    """How the M-step changes the policy.

    Args:
        method: `lora` or `full` (all weights).
        rank: Rank of the LoRA.
        alpha: Scale of the LoRA; its output is multiplied by alpha / rank.
        dropout: Dropout on the LoRA's input during the M-step.
        target_modules: `all-linear` or a list of layer names.
        round_start: `fresh` merges the adapter at each round's end and starts a new one with a new optimizer (paper);
            `continue` keeps adapter and optimizer.
        gradient_checkpointing: Trade time for memory in the M-step.
    """

    writes: ClassVar[Literal["texts", "adapters"]] = "texts"  # what an edit of the policy is

    method: Literal["lora", "full"] = "lora"
    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    round_start: Literal["fresh", "continue"] = "fresh"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"model.tuning.rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.tuning.dropout must be in [0, 1), got {self.dropout}")

    def policy_of(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool | ChatTemplate,
        *,
        seed: int,
        reload: Callable[[], PreTrainedModel] | None = None,
    ) -> TunedPolicy:
        """The policy that is trained in this way; arguments as those of `TunedPolicy`."""
        return TunedPolicy(model, tokenizer, chat, self, seed=seed, reload=reload)


def check_mergeable(tuning: PolicyTuning, merged: bool) -> None:
    """Raises `ConfigError` where whole weights are wanted of what leaves its base as it is."""
    if merged and tuning.writes == "adapters":
        raise ConfigError(
            "checkpoint.merged must be false where a generator is trained, got true: its base stays as it is; seal "
            "adapt --generator RUN --merged writes whole weights with a document's adapter"
        )


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy without its base: the adapters of finished rounds, and the parameters in training by name."""

    merged: tuple[Weights, ...]
    trained: Weights


class TunedPolicy:
    """A base model under fine-tuning: `module` is what the optimizer trains, `view` what the E-step sees.

    Args:
        model: Plain causal language model.
        tokenizer: Its tokenizer.
        chat: Whether prompts use the chat template.
        tuning: Settings of how the M-step changes it.
        seed: Run seed; the adapter of round r is drawn from (seed, r).
        reload: Loads the base model once more, for the replica under ZeRO-3.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool | ChatTemplate,
        tuning: PolicyTuning,
        *,
        seed: int,
        reload: Callable[[], PreTrainedModel] | None = None,
    ) -> None:
        self.tuning = tuning
        self.seed = seed
        self.merged: list[Weights] = []
        self.view = Policy(model, tokenizer, chat, learned=self.learned)
        self.module: nn.Module = self.wrapped(model)
        self._reload = reload
        self._replica: TunedPolicy | None = None
        if tuning.gradient_checkpointing:
            _checkpoint_activations(model)
        self.restart_adapter(0)

    def wrapped(self, model: PreTrainedModel) -> nn.Module:
        """The module that is trained, around or beside the plain model."""
        return _tuned(model, self.tuning)

    def restart_adapter(self, round: int) -> None:
        """Draw the adapter of `round` anew (a LoRA that changes nothing yet), the same on every rank."""
        if self.tuning.method == "full":
            return
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(derive_seed("policy adapter", self.seed, round))
            for layer in self._layers().values():
                # drawn on the CPU whatever the device, so that a GPU run starts from the same numbers
                lora_A, lora_B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                with whole([lora_A, lora_B], write=True):
                    fresh = torch.empty_like(lora_A, device="cpu", dtype=torch.float32)
                    nn.init.kaiming_uniform_(fresh, a=5**0.5)
                    lora_A.copy_(fresh)
                    lora_B.zero_()

    def end_round(self, round: int) -> bool:
        """Close the M-step of `round`; True if the adapter was merged and the optimizer has to start afresh."""
        if self.tuning.round_start == "continue":
            return False
        if self.tuning.method == "lora":
            self._merge(self.adapter_state())
            self.restart_adapter(round + 1)
        return True

    def _merge(self, state: Weights, *, into_weights: bool = True) -> None:
        self.merged.append(state)
        for name, layer in self._layers().items():
            if not into_weights and holds_updates(base_layer(layer)):
                continue
            # on the CPU, where a resumed run may have to repeat it to the last bit
            lora_A, lora_B = (state[f"{name}.lora_{part}.weight"] for part in "AB")
            add_update(layer, lora_A, lora_B, scale=layer.scaling["default"])

    def remerge(self, states: Sequence[Weights]) -> None:
        """Bring a freshly loaded base to where earlier rounds left it, by the same merges in the same order.

        Raises:
            ModelError: The base carries merged rounds already that `states` does not start with.
        """
        if not self.is_before(states):
            raise ModelError(
                f"the policy has merged {len(self.merged)} rounds already, which cannot be taken back: load the "
                "checkpoint into a new SEALModule"
            )
        for state in states[len(self.merged) :]:
            self._merge({name: tensor.clone() for name, tensor in state.items()})
        self.restart_adapter(len(self.merged))  # or the last round would count twice

    def is_before(self, states: Sequence[Weights]) -> bool:
        """Whether the rounds that are merged already are the first of `states`."""
        return len(self.merged) <= len(states) and all(
            torch.equal(tensor, merged[name])
            for merged, wanted in zip(self.merged, states, strict=False)
            for name, tensor in wanted.items()
        )

    def adapter_state(self) -> Weights:
        """A copy of the adapter in training, by peft's names; empty for full fine-tuning."""
        if self.tuning.method == "full":
            return {}
        with whole(self.trainable_state().values()):
            # left to itself, peft asks the hub whether the vocabulary was changed
            state = get_peft_model_state_dict(self.module, save_embedding_layers=False)  # type: ignore[arg-type]
            return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def trainable_state(self) -> Weights:
        """The trained parameters by name, not copied."""
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def state(self) -> PolicyState:
        """A copy of everything that makes the policy out of its base; a collective under ZeRO-3."""
        trained: Weights = {}
        for name, parameter in self.trainable_state().items():
            with whole([parameter]):
                trained[name] = parameter.detach().to("cpu", copy=True)
        return PolicyState(tuple(self.merged), trained)

    def load_state(self, state: PolicyState) -> None:
        """Become the policy that `state` was taken from. Raises `ModelError` as `remerge`."""
        self.remerge(state.merged)
        with torch.no_grad():
            for name, parameter in self.trainable_state().items():
                parameter.copy_(state.trained[name])

    def digest(self) -> str:
        """Identifies the policy's weights: everything merged so far and what is in training."""
        digest = hashlib.blake2b(digest_size=12)
        current = self.trainable_state() if self.tuning.method == "full" else self.adapter_state()
        for state in (*self.merged, current):
            for name in sorted(state):
                digest.update(name.encode())
                with whole([state[name]]):
                    digest.update(state[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def open_replica(self) -> None:
        """If weights are spread over the ranks, make an ordinary copy of the policy for `frozen`; a collective."""
        if self._replica is None and any(is_partitioned(parameter) for parameter in self.module.parameters()):
            assert self._reload is not None, "a partitioned policy needs `reload`"
            tuning = replace(self.tuning, gradient_checkpointing=False)
            self._replica = TunedPolicy(self._reload(), self.view.tokenizer, self.view.chat, tuning, seed=self.seed)
            copy_weights(self.module, self._replica.module)
            for state in self.merged:
                self._replica._merge(state, into_weights=False)  # those have it already
            if self.tuning.method == "lora":
                learned = self.learned()  # a collective, which the E-step must not be
                self._replica.view.learned = lambda: learned

    def close_replica(self) -> None:
        """Give the replica's memory back."""
        self._replica = None

    @contextmanager
    def frozen(self) -> Iterator[Policy]:
        """The policy as the E-step needs it: evaluation mode, nothing trainable; all flags are restored afterwards."""
        if self._replica is not None:
            with self._replica.frozen() as policy:
                yield policy
            return
        # a fresh adapter adds exactly nothing: its matrix products are skipped while it does
        added = [layer.lora_B["default"].weight for layer in self._layers().values()]
        idle = isinstance(self.module, PeftModel) and not _any_in(added)
        modes = {module: module.training for module in self.module.modules()}
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        text = self.view.model.config.get_text_config()  # of a multimodal model, the part that answers
        use_cache = getattr(text, "use_cache", True)
        self.module.eval()
        text.use_cache = True
        try:
            with self.module.disable_adapter() if idle else nullcontext():  # type: ignore[operator]
                for parameter in self.module.parameters():
                    parameter.requires_grad_(False)
                yield self.view
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter in self.module.parameters():
                parameter.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)
            text.use_cache = use_cache

    def learned(self) -> LoRA | None:
        """What the M-steps have added to the base so far, as one LoRA; a collective under ZeRO-3.

        Raises:
            ConfigError: All weights are trained, so the change is not a LoRA.
        """
        if self.tuning.method == "full":
            raise ConfigError("model.tuning.method must be lora if a server holds the base model, got full")
        states = self._learned_states(self.adapter_state())
        parts = [part for part in (carried(self.view.model), self._lora(states) if states else None) if part]
        return stack(parts) if len(parts) > 1 else next(iter(parts), None)

    def _lora(self, states: Sequence[Weights]) -> LoRA:
        """Several rounds' LoRAs as one of the summed rank and the same scale: A by rows, B by columns."""
        axis = {name: 0 if ".lora_A." in name else 1 for name in states[0]}
        summed = {name: torch.cat([state[name] for state in states], dim=axis[name]).contiguous() for name in axis}
        return LoRA(summed, self.tuning.alpha / self.tuning.rank)

    def _learned_states(self, current: Weights) -> list[Weights]:
        """The adapters of finished rounds, and the current one if it changes anything."""
        in_use = _any_in([tensor for name, tensor in current.items() if ".lora_B." in name])
        return [*self.merged, current] if in_use else list(self.merged)

    @property
    def layers(self) -> list[str]:
        """The layers that the M-step's LoRA changes, by their names in the plain model; none where all weights are."""
        return [name.removeprefix("base_model.model.") for name in self._layers()]

    def _layers(self) -> dict[str, Any]:
        return {name: module for name, module in self.module.named_modules() if isinstance(module, LoraLayer)}

    def export(self, folder: Path, *, merged: bool = False, write: bool = True) -> None:
        """Write the policy: a PEFT folder against the original base, or whole weights (`merged`, or full tuning).

        Args:
            folder: Created if missing. Each file is written whole or not at all; `saving.whole` does the same for all.
            merged: Whether to write whole weights with the adapters added.
            write: False on all ranks but one, which only help to gather what ZeRO-3 has spread.

        Raises:
            SavingError: The folder cannot be written.
        """
        current = self.adapter_state()
        if self.tuning.method == "full" or merged:
            state = whole_state(self.view.model, self._lora([current]) if current else None, keep=write)
            save = partial(save_whole, self.view.model, state=state)
        else:
            lora, before = self._lora(self._learned_states(current) or [current]), carried(self.view.model)
            save = partial(save_lora, stack([before, lora]) if before else lora, model=self.view.model)
        if write:
            with whole_files(folder) as aside:
                save(aside)
                self.view.tokenizer.save_pretrained(aside)


def _any_in(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any number is not 0; waits for a device once, not for every tensor."""
    return bool(tensors) and bool(torch.stack([tensor.any() for tensor in tensors]).any())


def _checkpoint_activations(model: PreTrainedModel) -> None:
    # transformers 5 has renamed it; the old name warns
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"model.tuning.gradient_checkpointing=true: {' '.join(str(error).split())} Leave it out for this model"
        ) from error
    model.config.get_text_config().use_cache = False


def _tuned(model: PreTrainedModel, tuning: PolicyTuning) -> nn.Module:
    if tuning.method == "lora":
        return _with_lora(model, tuning)
    if is_quantised(model):
        raise ConfigError(
            "model.tuning.method=full: the weights of a quantised base cannot be trained; expected lora, or a base "
            "that is not quantised"
        )
    return model.float()


def _with_lora(model: PreTrainedModel, tuning: PolicyTuning) -> nn.Module:
    wanted = f"model.tuning.target_modules={tuning.target_modules}"
    output = model.get_output_embeddings()
    head = next((name for name, module in model.named_modules() if module is output), "")
    named = [tuning.target_modules] if isinstance(tuning.target_modules, str) else tuning.target_modules
    if output is not None and head in named and output.weight is model.get_input_embeddings().weight:
        raise ConfigError(f"{wanted}: {head} shares its weight with the input embedding; leave it out")
    note_shared(model)
    usable = {layer.name for layer in linear_layers(model)} | {head}
    try:
        wrapped = get_peft_model(model, _lora_config(model, tuning))
    except ValueError as error:
        raise ConfigError(f"{wanted}: {' '.join(str(error).split())}") from error
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and name not in usable:
            raise ConfigError(
                f"{wanted}: {name} is not a linear layer that can carry an adapter; name others, or give all-linear"
            )
    return wrapped  # type: ignore[return-value]


def _lora_config(model: PreTrainedModel, tuning: PolicyTuning) -> LoraConfig:
    """peft's settings; its own `all-linear` includes layers that cannot carry an adapter, so they are given by name."""
    wanted, aside = tuning.target_modules, unreached(model)
    return LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,  # type: ignore[arg-type]  # peft computes alpha / r, floats are fine
        lora_dropout=tuning.dropout,
        target_modules=[layer.name for layer in linear_layers(model)] if wanted == "all-linear" else wanted,
        exclude_modules=rf"(?:{'|'.join(map(re.escape, aside))})(?:\..+)?" if aside else None,  # and what is below
        fan_in_fan_out=transposed(model),
        task_type="CAUSAL_LM",
    )
