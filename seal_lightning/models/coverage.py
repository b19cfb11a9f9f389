"""Which parts of a model text reaches, and which of those hold weights that no adapter can act on.

A multimodal checkpoint carries towers for images or sound and what projects them into the text, and some models have
layers that attend to images alone. No token of a text runs through them, so an adapter there would never be trained.
They are found by running a few tokens, whatever their names. Mixture-of-experts models keep their experts' weights
in one tensor for all experts, which is not a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ModelError

_TOKENS = 4
_FOUND = "_seen_on_text"  # on the model: its structure does not change


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model does with a few tokens of text.

    Attributes:
        unreached: Names of the parts with linear layers that the text never runs through, outermost only.
        more: Names of the modules that return something other than one product: several tensors, as routers do, or
            other sizes than a linear layer's.
    """

    unreached: tuple[str, ...] = ()
    more: frozenset[str] = frozenset()


def seen(model: PreTrainedModel) -> Seen:
    """What a model does with a few tokens of text, found out once.

    Raises:
        ModelError: The model does not run on text alone.
    """
    if getattr(model, "config", None) is None:
        return Seen()
    if not hasattr(model, _FOUND):
        setattr(model, _FOUND, _look(model))
    return getattr(model, _FOUND)


def unreached(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the parts with linear layers that a text never runs through, outermost only; raises as `seen`."""
    return seen(model).unreached


def _look(model: PreTrainedModel) -> Seen:
    ran: set[nn.Module] = set()
    more: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
        ran.add(module)
        if not isinstance(output, torch.Tensor) or not _sizes_fit(module, args, output):
            more.add(module)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(input_ids=plain_tokens(model), use_cache=False)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        quantised = getattr(model, "hf_quantizer", None) is not None
        advice = "load it without quantisation" if quantised else "choose a model that continues text"
        raise ModelError(
            f"{type(model).__name__} cannot read a few tokens of text: {' '.join(str(error).split())[:200]}; {advice}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return Seen(
        unreached=tuple(name for name, part in _not_in(ran, model) if _has_linear_layers(part)),
        more=frozenset(name for name, module in model.named_modules() if module in more),
    )


def _sizes_fit(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> bool:
    """Whether a linear layer has made (..., out) of (..., in); true of any other module."""
    if not isinstance(module, nn.Linear):
        return True
    return bool(args) and (*args[0].shape[:-1], module.out_features) == output.shape


def plain_tokens(model: PreTrainedModel) -> torch.Tensor:
    """A few token ids (1, T) that stand for no image or sound."""
    special = set(special_ids(model.config.to_dict()))
    plain = (number for number in range(model.config.get_text_config().vocab_size) if number not in special)
    ids = [number for number, _ in zip(plain, range(_TOKENS), strict=False)]
    return torch.tensor([ids], device=model.get_input_embeddings().get_parameter("weight").device)


def special_ids(config: Mapping[str, object]) -> Iterator[int]:
    """Token ids that a configuration, or one within it, gives a meaning: an end, the place of an image."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from special_ids(value)
        elif str(name).endswith(("token_id", "token_index", "token_ids")):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _not_in(ran: set[nn.Module], module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost parts of which nothing ran; an expert that no token chose counts as run."""
    children = [(key, child) for key, child in module.named_children() if any(True for _ in child.parameters())]
    alike = isinstance(module, nn.ModuleList | nn.ModuleDict)
    like = {type(child) for _, child in children if child in ran} if alike else set()
    for key, child in children:
        path = f"{name}.{key}" if name else key
        if ran.isdisjoint(child.modules()):
            if type(child) not in like:
                yield path, child
        elif not isinstance(child, LoraLayer):
            yield from _not_in(ran, child, path)


def _has_linear_layers(part: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear | Conv1D) for module in part.modules())


def is_below(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a module is one of these parts or inside of one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def fused(model: PreTrainedModel) -> list[str]:
    """Modules that text reaches and that keep the weights of several experts in one tensor."""
    aside = unreached(model)
    return [name for name, module in model.named_modules() if _is_fused(module) and not is_below(name, aside)]


def _is_fused(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.conv._ConvNd):
        return False
    least = 2 if "expert" in type(module).__name__.lower() and not isinstance(module, nn.Linear) else 3
    return any(parameter.dim() >= least for parameter in module.parameters(recurse=False))
