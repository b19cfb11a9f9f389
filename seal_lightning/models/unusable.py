"""Linear layers that cannot carry an adapter although they look as if they could, each with the reason.

Found out on the model: a few tokens show which layers give back their product and nothing else (a router may return its
choice too, a layer for groups of features several products side by side), and peft is asked which of them it would give
an adapter (it sends the names of some mixtures' layers to their experts, and refuses others) and which it finds again
in a file (it renames what is in files as transformers renames old checkpoints). What is left out here is left out of
the inner loop and of the policy's fine-tuning alike, and said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from seal_lightning.models.coverage import seen

MORE = "they return more than their product"
NOT_BY_PEFT = "peft cannot give them one that loads again"

_FOUND = "_layers_without_adapters"  # on the model: its structure does not change


def unusable(model: PreTrainedModel, layers: Sequence[str]) -> dict[str, str]:
    """The reason for each of `layers`, by their names in the model, that cannot carry an adapter."""
    if not isinstance(model, PreTrainedModel):
        return {}
    if not hasattr(model, _FOUND):
        found = dict.fromkeys(sorted(seen(model).more.intersection(layers)), MORE)
        usable = [name for name in layers if name not in found]
        setattr(model, _FOUND, found | dict.fromkeys(_refused_by_peft(model, usable), NOT_BY_PEFT))
    return getattr(model, _FOUND)


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
        given = {name for name, module in adapted.get_base_model().named_modules() if _has_adapter(module)}
        lost = _not_read_back(adapted)
    return [name for name in names if name not in given - lost]


def _not_read_back(adapted: Any) -> set[str]:
    """The layers whose adapter peft writes into a file by a name under which it does not find it again."""
    result = set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    return {
        key.removeprefix("base_model.model.").partition(".lora_")[0] for key in result.missing_keys if ".lora_" in key
    }


def _has_adapter(module: nn.Module) -> bool:
    return isinstance(module, LoraLayer) and "default" in module.lora_A
