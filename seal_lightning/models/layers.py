"""The linear layers of a model that adapters act on: all of them, or those that a setting names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_DEFAULTS
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.models.beside import base_layer
from seal_lightning.models.coverage import fused, is_below, unreached, unusable

PAPERS = ("q_proj", "v_proj")  # the layers that the LoRA and SEAL papers adapt


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted layer: its name in the model, and its sizes."""

    name: str
    module: nn.Module
    inputs: int
    outputs: int


def linear_layers(model: PreTrainedModel) -> list[Target]:
    """Every linear layer that text reaches (also GPT-2's Conv1D, quantised ones, and layers that carry a peft adapter).

    The output embedding is not among them, nor are layers that cannot carry an adapter (`coverage.unusable`).
    """
    layers = _look_linear(model)
    left_out = unusable(model, [layer.name for layer in layers])
    return [layer for layer in layers if layer.name not in left_out]


def _look_linear(model: PreTrainedModel) -> list[Target]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    aside = unreached(model)
    modules: list[tuple[str, nn.Module]] = list(model.named_modules())
    targets: list[Target] = []
    inside: tuple[str, ...] = ()  # names below a peft layer are its own parts
    for name, module in modules:
        if name.startswith(inside):
            continue
        if isinstance(module, LoraLayer):
            inside = (*inside, f"{name}.")
        frozen = base_layer(module)
        if module is head or is_below(name, aside):
            continue
        if isinstance(frozen, nn.Linear):
            targets.append(Target(name, module, frozen.in_features, frozen.out_features))
        elif isinstance(frozen, Conv1D):
            targets.append(Target(name, module, *frozen.weight.shape))
    return targets


def parts_without_adapter(model: PreTrainedModel) -> dict[str, list[str]]:
    """Parts that no adapter acts on, by reason; empty if all weights but embeddings and norms are in linear layers."""
    reasons = {"text does not reach them": list(unreached(model)), "experts with fused weights": fused(model)}
    for name, reason in unusable(model, [layer.name for layer in _look_linear(model)]).items():
        reasons.setdefault(reason, []).append(name)
    return {reason: names for reason, names in reasons.items() if names}


def find_targets(
    model: PreTrainedModel, wanted: str | Sequence[str] | None, *, option: str = "model.inner_loop.target_modules"
) -> list[Target]:
    """The layers to adapt: `all-linear`, `default` or None, or names' last parts; `option` is where they were named.

    The default is peft's choice for the architecture, or without one the q and v projections as in the paper.

    Raises:
        ConfigError: A name fits no linear layer, or there is no default for the architecture.
        ModelError: The layers are of a kind that adapters cannot act on.
    """
    layers = linear_layers(model)
    if wanted == "all-linear":
        _check_kinds(model, layers, None)
        return layers
    kinds = sorted({layer.name.rpartition(".")[2] for layer in layers})
    if wanted is None or wanted == "default":
        types = [model.config.model_type, model.config.get_text_config().model_type]
        known = next((PEFT_DEFAULTS[name] for name in types if name in PEFT_DEFAULTS), None)
        if known is None and set(PAPERS) <= set(kinds):
            known = PAPERS
        if known is None:
            raise ConfigError(
                f"{option}=default: peft has no default for {types[0]}; give all-linear or some of {', '.join(kinds)}"
            )
        wanted = list(known)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    _check_kinds(model, layers, names)
    unknown = [name for name in names if not any(_fits(layer.name, name) for layer in layers)]
    if unknown:
        raise ConfigError(
            f"{option}: no linear layer is called {', '.join(unknown)}; expected "
            f"all-linear, default or some of {', '.join(kinds)}"
        )
    return [layer for layer in layers if any(_fits(layer.name, name) for name in names)]


def _check_kinds(model: PreTrainedModel, layers: Sequence[Target], names: Sequence[str] | None) -> None:
    """Refuse layers that are linear in all but their class, as some quantisation libraries have."""
    known, aside = {layer.name for layer in layers}, unreached(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | LoraLayer) or name in known or is_below(name, aside):
            continue
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        wanted = names is None or any(_fits(name, one) for one in names)
        if wanted and all(isinstance(size, int) for size in sizes):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which adapters cannot act on: expected nn.Linear or a subclass, "
                "as bitsandbytes has; load other weights of the model"
            )
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layers that adapters could act on: expected nn.Linear or Conv1D; "
            "choose another model"
        )


def _fits(layer: str, wanted: str) -> bool:
    return layer == wanted or layer.endswith("." + wanted)


def parameters_of(targets: Sequence[Target], rank: int) -> int:
    """How many parameters one adapter has."""
    return sum((target.inputs + target.outputs) * rank for target in targets)
