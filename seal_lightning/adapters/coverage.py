"""Which parts of a model text reaches, and which of those hold weights that no adapter can act on.

A multimodal checkpoint carries towers for images or sound and what projects them into the text. No token of a text runs
through them, so an adapter there would never be trained. They are found by running a few tokens, whatever they are
called. Mixture-of-experts models keep their experts' weights in one tensor for all experts, which is no linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ModelError

_TOKENS = 4
_FOUND = "_text_never_reaches"  # on the model: its structure does not change


def unreached(model: Any) -> tuple[str, ...]:
    """Names of the parts that a text never runs through, outermost only; none where the model is for text alone.

    Raises:
        ModelError: A model of several parts does not run on text alone.
    """
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return ()
    if not hasattr(model, _FOUND):
        ran = _ran(model)
        setattr(model, _FOUND, tuple(name for name, part in _not_in(ran, model) if _has_linear_layers(part)))
    return getattr(model, _FOUND)


def _ran(model: Any) -> set[nn.Module]:
    """The modules that run when the model reads a few tokens of text."""
    ran: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, _: ran.add(module)) for module in model.modules()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(input_ids=_plain_tokens(model), use_cache=False)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__} does not read text without images or sound: {' '.join(str(error).split())[:200]}; "
            "choose a model that continues text"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return ran


def _plain_tokens(model: Any) -> torch.Tensor:
    """A few token ids (1, T) that stand for no image or sound."""
    config = model.config
    numbers = {
        value
        for part in (config, config.get_text_config())
        for name, value in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    plain = (number for number in range(config.get_text_config().vocab_size) if number not in numbers)
    ids = [number for number, _ in zip(plain, range(_TOKENS), strict=False)]
    return torch.tensor([ids], device=model.get_input_embeddings().weight.device)


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


def fused(model: Any) -> list[str]:
    """Layers that text reaches and whose weights are one tensor for several layers, as experts have them."""
    aside = unreached(model)
    return [
        name
        for name, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        and any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
        and not is_below(name, aside)
    ]


def without_adapter(model: Any) -> dict[str, list[str]]:
    """What no adapter acts on, by reason; empty for a plain text model."""
    reasons = {"text does not reach them": list(unreached(model)), "experts with fused weights": fused(model)}
    return {reason: names for reason, names in reasons.items() if names}
