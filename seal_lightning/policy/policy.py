"""The policy: the model that writes self-edits and is adapted, and how a round changes it for good.

E-step code sees `Policy`: a plain transformers model with its tokenizer. `PolicyTuning` says how the M-step fine-tunes
it: LoRA (default, all linear layers) or all weights. After a round, a `fresh` LoRA is merged into its base layers in
place and drawn anew, as the paper does; parameter identity survives, so DDP and DeepSpeed engines stay valid. Quantised
layers keep their weights and carry it beside them. What was merged is kept as a stack of small adapters, so checkpoints
and exports never hold the base weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.saving import whole_files
from seal_lightning.models.beside import add_update, is_quantised, note_shared
from seal_lightning.models.chat import ChatTemplate, ends_turns, read_template
from seal_lightning.models.coverage import unreached
from seal_lightning.models.encoding import TextEncoder
from seal_lightning.models.layers import linear_layers
from seal_lightning.models.lora import LoRA, carried, save_lora, stack, transposed
from seal_lightning.models.partitioned import copy_weights, is_partitioned, whole
from seal_lightning.models.whole import save_whole, whole_state
from seal_lightning.seeding import derive_seed
from seal_lightning.types import Prompt

AdapterState = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PolicyTuning:
    """How the M-step changes the policy.

    Args:
        method: `lora` or `full` (all weights).
        rank: Of the LoRA.
        alpha: Scale of the LoRA; its output is multiplied by alpha / rank.
        dropout: On the LoRA's input during the M-step.
        target_modules: `all-linear` or a list of layer names.
        round_start: `fresh` merges the adapter at each round's end and starts a new one with a new optimizer (paper);
            `continue` keeps adapter and optimizer.
        gradient_checkpointing: Trade time for memory in the M-step.
    """

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


@dataclass(slots=True)
class Policy:
    """A plain causal language model with its tokenizer.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        chat: Whether prompts go through the chat template: the template as `load_model` has tried it out, or True for
            the tokenizer's with its defaults.
        learned: What M-steps have added to the base, for a server that holds the base; None where that is nothing.
        encoder: Turns texts into token ids, and back.
        template: The chat template; None for plain prompts.
    """

    model: Any
    tokenizer: Any
    chat: bool | ChatTemplate
    learned: Callable[[], LoRA | None] = lambda: None
    encoder: TextEncoder = field(init=False, repr=False)
    template: ChatTemplate | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.encoder = TextEncoder(self.tokenizer)
        self.template = read_template(self.tokenizer) if self.chat is True else self.chat or None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def window(self) -> int:
        """The most tokens the model can attend to (a large number where its config sets no limit)."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20) or 1 << 20)

    @property
    def chat_stamp(self) -> bool | str:
        """Whether and how prompts go through the chat template, for a journal's stamp."""
        return self.template.stamp if self.template else False

    def format(self, prompt: Prompt) -> str:
        """The text the model reads: the chat template, or for base models plain text that ends in the lead.

        Control tokens that the prompt mentions are marked (`encoding.MARK`): to `encode` they are text.
        """
        mark = self.encoder.mark
        marked = replace(prompt, user=mark(prompt.user), lead=mark(prompt.lead), system=mark(prompt.system))
        if self.template and not prompt.plain:
            return self.template.render(marked)
        text = f"{marked.system}\n\n{marked.user}{marked.lead}" if marked.system else marked.user + marked.lead
        return self._opening() + text if self.template else text

    def _opening(self) -> str:
        """The special tokens that the tokenizer begins a text with, which `encode` leaves to the chat template."""
        return self.tokenizer.decode(self.encoder.opening)

    def encode(self, text: str) -> list[int]:
        """Token ids of a formatted prompt (a chat template writes its special tokens itself)."""
        return self.encoder.prompt(text, opened=self.template is not None)

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of what the model should answer a prompt with, up to the end of its turn."""
        end = self.encoder.end if self.template is None or self.template.end is None else [self.template.end]
        return [*self.reply_opening, *self.encoder.data(text), *end]

    @property
    def reply_opening(self) -> list[int]:
        """What stands between a prompt and the reply itself: the end of a thought that the prompt opens, a channel."""
        return self.encoder.prompt(self.template.reply, opened=True) if self.template else []

    def decode(self, ids: Sequence[int], *, prompt: Sequence[int]) -> str:
        """What the model has written after a prompt, with the thoughts that it has written or gone on with."""
        opened = self.opened(self.tokenizer.decode(prompt[-40:])) if self.template and self.template.opens else ""
        return opened + self.encoder.decode(ids)

    def opened(self, prompt: str) -> str:
        """How a formatted prompt opens a thought for the model to go on with; empty where it does not."""
        opens = self.template.opens if self.template else ""
        return opens if opens and prompt.endswith(opens) else ""

    @property
    def ends_turns(self) -> bool:
        """Whether the model stops of its own where the chat template ends a turn."""
        return self.template is None or ends_turns(self.template, self.model)

    def count(self, text: str) -> int:
        """Tokens of a text that the policy did not write itself, without special ones."""
        return len(self.encoder.data(text))


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy without its base: the adapters of finished rounds, and the parameters in training by name."""

    merged: tuple[AdapterState, ...]
    trained: AdapterState


class TunedPolicy:
    """A base model under fine-tuning: `module` is what the optimizer trains, `policy` what the E-step sees.

    Args:
        model: Plain causal language model.
        tokenizer: Its tokenizer.
        chat: Whether prompts use the chat template.
        tuning: How the M-step changes it.
        seed: Run seed; the adapter of round r is drawn from (seed, r).
        reload: Loads the base model once more, for the replica under ZeRO-3.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        chat: bool | ChatTemplate,
        tuning: PolicyTuning,
        *,
        seed: int,
        reload: Callable[[], Any] | None = None,
    ) -> None:
        self.tuning = tuning
        self.seed = seed
        self.merged: list[AdapterState] = []
        self.policy = Policy(model, tokenizer, chat, learned=self.learned)
        self.module: nn.Module = _tuned(model, tuning)
        self._reload = reload
        self._replica: TunedPolicy | None = None
        if tuning.gradient_checkpointing:
            _checkpoint_activations(model)
        self.restart_adapter(0)

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
        """Close the M-step of `round`; True where the adapter was merged and the optimizer has to start afresh."""
        if self.tuning.round_start == "continue":
            return False
        if self.tuning.method == "lora":
            self._merge(self.adapter_state())
            self.restart_adapter(round + 1)
        return True

    def _merge(self, state: AdapterState) -> None:
        self.merged.append(state)
        for name, layer in self._layers().items():
            # on the CPU, where a resumed run may have to repeat it to the last bit
            lora_A, lora_B = (state[f"{name}.lora_{part}.weight"] for part in "AB")
            add_update(layer, lora_A, lora_B, scale=layer.scaling["default"])

    def remerge(self, states: Sequence[AdapterState]) -> None:
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

    def is_before(self, states: Sequence[AdapterState]) -> bool:
        """Whether the rounds that are merged already are the first of `states`."""
        pairs = zip_longest(self.merged, states[: len(self.merged)])
        return all(
            wanted is not None and all(torch.equal(tensor, mine[name]) for name, tensor in wanted.items())
            for mine, wanted in pairs
        )

    def adapter_state(self) -> AdapterState:
        """A copy of the adapter in training, by peft's names; empty for full fine-tuning."""
        if self.tuning.method == "full":
            return {}
        with whole(self.trainable_state().values()):
            # left to itself, peft asks the hub whether the vocabulary was changed
            state = get_peft_model_state_dict(self.module, save_embedding_layers=False)  # type: ignore[arg-type]
            return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def trainable_state(self) -> AdapterState:
        """The trained parameters by name, not copied."""
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    def state(self) -> PolicyState:
        """A copy of everything that makes the policy out of its base; a collective under ZeRO-3."""
        return PolicyState(tuple(self.merged), self._current())

    def load_state(self, state: PolicyState) -> None:
        """Become the policy that `state` was taken from. Raises `ModelError` as `remerge`."""
        self.remerge(state.merged)
        with torch.no_grad():
            for name, parameter in self.trainable_state().items():
                parameter.copy_(state.trained[name])

    def _current(self) -> AdapterState:
        copies: AdapterState = {}
        for name, parameter in self.trainable_state().items():
            with whole([parameter]):
                copies[name] = parameter.detach().to("cpu", copy=True)
        return copies

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
        """Where weights are spread over the ranks: an ordinary copy of the policy for `frozen`; a collective."""
        if self._replica is None and any(is_partitioned(parameter) for parameter in self.module.parameters()):
            assert self._reload is not None, "a partitioned policy needs `reload`"
            policy = replace(self.policy, model=self._reload())
            tuning = replace(self.tuning, gradient_checkpointing=False)
            self._replica = TunedPolicy(policy.model, policy.tokenizer, policy.chat, tuning, seed=self.seed)
            copy_weights(self.module, self._replica.module)
            if self.tuning.method == "lora":
                learned = self.learned()  # a collective, which the E-step must not be
                self._replica.policy.learned = lambda: learned

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
        modes = {module: module.training for module in self.module.modules()}
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        text = self.policy.model.config.get_text_config()  # of a multimodal model, the part that answers
        use_cache = getattr(text, "use_cache", True)
        self.module.eval()
        text.use_cache = True
        try:
            with self._without_idle_adapter():
                for parameter in self.module.parameters():
                    parameter.requires_grad_(False)
                yield self.policy
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter in self.module.parameters():
                parameter.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)
            text.use_cache = use_cache

    def _without_idle_adapter(self) -> Any:
        """A fresh adapter adds exactly nothing: skip its matrix products while it does."""
        idle = isinstance(self.module, PeftModel) and all(
            not layer.lora_B["default"].weight.any() for layer in self._layers().values()
        )
        return self.module.disable_adapter() if idle else nullcontext()  # type: ignore[operator]

    def learned(self) -> LoRA | None:
        """What the M-steps have added to the base so far, as one LoRA; a collective under ZeRO-3.

        Raises:
            ConfigError: All weights are trained, so there is no such thing.
        """
        if self.tuning.method == "full":
            raise ConfigError("model.tuning.method must be lora where a server holds the base model, got full")
        states = self._learned_states(self.adapter_state())
        parts = [part for part in (carried(self.policy.model), self._lora(states) if states else None) if part]
        return stack(parts) if len(parts) > 1 else next(iter(parts), None)

    def _lora(self, states: Sequence[AdapterState]) -> LoRA:
        return LoRA(_concatenate(states), self.tuning.alpha / self.tuning.rank)

    def _learned_states(self, current: AdapterState) -> list[AdapterState]:
        """The adapters of finished rounds, and the current one where it changes anything."""
        in_use = any(bool(tensor.any()) for name, tensor in current.items() if ".lora_B." in name)
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
            folder: Made when missing; each file is whole or as it was. `saving.whole` makes one of them.
            merged: Whole weights, the adapters added to them.
            write: Off on all ranks but one: they take part in gathering what ZeRO-3 has spread.

        Raises:
            SavingError: It cannot be written.
        """
        if self.tuning.method == "full" or merged:
            current = self.adapter_state()
            state = whole_state(self.policy.model, self._lora([current]) if current else None, keep=write)
            save = partial(save_whole, self.policy.model, state=state)
        else:
            current = self.adapter_state()
            save = partial(self._save_adapter, states=self._learned_states(current) or [current])
        if write:
            with whole_files(folder) as aside:
                save(aside)
                self.policy.tokenizer.save_pretrained(aside)

    def _save_adapter(self, folder: Path, states: Sequence[AdapterState]) -> None:
        lora, before = self._lora(states), carried(self.policy.model)
        save_lora(stack([before, lora]) if before else lora, folder, model=self.policy.model)


def _checkpoint_activations(model: Any) -> None:
    # transformers 5 has renamed it; the old name warns
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"model.tuning.gradient_checkpointing=true: {' '.join(str(error).split())} Leave it out for this model"
        ) from error
    model.config.get_text_config().use_cache = False


def _tuned(model: Any, tuning: PolicyTuning) -> nn.Module:
    if tuning.method == "lora":
        return _with_lora(model, tuning)
    if is_quantised(model):
        raise ConfigError(
            "model.tuning.method=full: the weights of a quantised base cannot be trained; expected lora, or a base "
            "that is not quantised"
        )
    return model.float()


def _with_lora(model: Any, tuning: PolicyTuning) -> nn.Module:
    wanted = f"model.tuning.target_modules={tuning.target_modules}"
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    named = [tuning.target_modules] if isinstance(tuning.target_modules, str) else tuning.target_modules
    if head in named and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        raise ConfigError(f"{wanted}: {head} shares its weight with the input embedding; leave it out")
    note_shared(model)
    usable = {layer.name for layer in linear_layers(model)} | {head}
    try:
        wrapped = get_peft_model(model, LoraConfig(**_lora_options(model, tuning)))
    except ValueError as error:
        raise ConfigError(f"{wanted}: {' '.join(str(error).split())}") from error
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and name not in usable:
            raise ConfigError(
                f"{wanted}: {name} is not a linear layer that can carry an adapter; name others, or give all-linear"
            )
    return wrapped  # type: ignore[return-value]


def _lora_options(model: Any, tuning: PolicyTuning) -> Mapping[str, Any]:
    return {
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": tuning.dropout,
        "target_modules": _names(model, tuning.target_modules),
        "exclude_modules": _below(unreached(model)),
        "fan_in_fan_out": transposed(model),
        "task_type": "CAUSAL_LM",
    }


def _names(model: Any, wanted: str | Sequence[str]) -> str | list[str]:
    """What peft is told: each layer by name, since its own `all-linear` takes layers that cannot carry an adapter."""
    if wanted == "all-linear":
        return [layer.name for layer in linear_layers(model)]
    return wanted if isinstance(wanted, str) else list(wanted)


def _below(parts: Sequence[str]) -> str | None:
    """What peft calls a pattern of names: these parts of a model and everything inside of them."""
    return rf"(?:{'|'.join(map(re.escape, parts))})(?:\..+)?" if parts else None


def _concatenate(states: Sequence[AdapterState]) -> AdapterState:
    """The sum of several rounds' LoRAs as one of the summed rank and the same scale: A by rows, B by columns."""
    axis = {name: 0 if ".lora_A." in name else 1 for name in states[0]}
    return {name: torch.cat([state[name] for state in states], dim=axis[name]).contiguous() for name in states[0]}
