"""Which parts of a model text reaches, and which of those hold weights that no adapter can act on.

A multimodal checkpoint carries towers for images or sound and what projects them into the text, and some models have
layers that attend to images alone. No token of a text runs through them, so an adapter there would never be trained.
They are found by running a few tokens, whatever their names. Mixture-of-experts models keep their experts' weights
in one tensor for all experts, which is not a linear layer.

Some linear layers cannot carry an adapter although they look as if they could. The same tokens show which layers give
back their product and nothing else (a router may return its choice too, a layer for groups of features several products
side by side), and peft is asked which of them it would give an adapter (it sends the names of some mixtures' layers to
their experts, and refuses others) and which it finds again in a file (it renames what is in files as transformers
renames old checkpoints). They are left out of the inner loop and of the policy's fine-tuning alike, and said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ModelError

UNLIMITED = 1 << 20  # tokens, of a model whose configuration sets no limit

_TOKENS = 4
_SEEN = "_seen_on_text"  # on the model, as the next one: its structure does not change
_UNUSABLE = "_layers_without_adapters"


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
    if not hasattr(model, _SEEN):
        setattr(model, _SEEN, _look(model))
    return getattr(model, _SEEN)


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
            device = model.get_input_embeddings().get_parameter("weight").device
            model.eval()(input_ids=torch.tensor([plain_ids(model)[:_TOKENS]], device=device), use_cache=False)
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


def _has_linear_layers(part: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear | Conv1D) for module in part.modules())


def _sizes_fit(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> bool:
    """Whether a linear layer has made (..., out) of (..., in); true of any other module."""
    if not isinstance(module, nn.Linear):
        return True
    return bool(args) and (*args[0].shape[:-1], module.out_features) == output.shape


def plain_ids(model: PreTrainedModel) -> list[int]:
    """The first few thousand token ids, without those that the configuration gives a meaning, as an image's place."""
    size = min(model.get_input_embeddings().get_parameter("weight").shape[0], model.config.get_text_config().vocab_size)
    special = set(_special_ids(model.config.to_dict()))
    return [token for token in range(min(size, 4096)) if token not in special] or [0]


def _special_ids(config: Mapping[str, object]) -> Iterator[int]:
    """Token ids that a configuration, or one within it, gives a meaning: an end, the place of an image."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _special_ids(value)
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


def window(model: PreTrainedModel) -> int:
    """The most tokens the model can attend to, by the configuration of its language model."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED)


def unusable(model: PreTrainedModel, layers: Sequence[str]) -> dict[str, str]:
    """The reason for each of `layers`, by their names in the model, that cannot carry an adapter."""
    if not isinstance(model, PreTrainedModel):
        return {}
    if not hasattr(model, _UNUSABLE):
        found = dict.fromkeys(sorted(seen(model).more.intersection(layers)), "they return more than their product")
        usable = [name for name in layers if name not in found]
        refused = dict.fromkeys(_refused_by_peft(model, usable), "peft cannot give them one that loads again")
        setattr(model, _UNUSABLE, found | refused)
    return getattr(model, _UNUSABLE)


def _refused_by_peft(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Those names that peft gives no adapter of their own."""
    refused = _not_adapted(model, names)
    if refused is None:  # it raises for some of them: find out for which
        kinds = {name.rpartition(".")[2] for name in names}
        by_kind = {kind: [name for name in names if name.rpartition(".")[2] == kind] for kind in kinds}
        raising = {kind for kind, alike in by_kind.items() if _not_adapted(model, alike) is None}
        rest = [name for name in names if name.rpartition(".")[2] not in raising]
        refused = [name for name in names if name not in rest] + (_not_adapted(model, rest) or [])
    return refused


def _not_adapted(model: PreTrainedModel, names: Sequence[str]) -> list[str] | None:
    """The names without an adapter when peft is asked for all of them, on a copy without weights; None if it raises."""
    if not names:
        return []
    with torch.device("meta"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = type(model)._from_config(copy.deepcopy(model.config))
        built = {name for name, _ in empty.named_modules()}
        names = [name for name in names if name in built]  # a layer that was put in later is not judged
        if not names:
            return []
        try:
            adapted = get_peft_model(empty, LoraConfig(r=1, target_modules=list(names)))
        except ValueError:
            return None
        read = set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    lost = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in read.missing_keys}
    loaded = {
        name
        for name, module in adapted.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and "default" in module.lora_A and name not in lost
    }
    return [name for name in names if name not in loaded]
