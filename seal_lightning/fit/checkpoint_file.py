"""A fit's checkpoint, checked before anything is built from it: whole, with all its fields, and finite.

It holds tensors and plain values only, so reading one runs no code (`weights_only`). The archive's own check sums tell
flipped bits. What a checkpoint is about (settings, base model) is compared later, when they are known.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from seal_lightning.models.finite import all_finite

_FIELDS: dict[tuple[str, ...], type] = {
    ("state_dict",): dict,
    ("optimizer_states",): list,
    ("lr_schedulers",): list,
    ("callbacks",): dict,
    ("epoch",): int,
    ("global_step",): int,
    ("seal", "base"): str,
    ("seal", "merged"): list,
    ("seal", "optimizer_steps"): int,
    ("seal", "rounds_done"): int,
    ("loops", "fit_loop", "state_dict", "stage"): str,
    ("loops", "fit_loop", "state_dict", "policy_digest"): str,
    ("loops", "fit_loop", "state_dict", "ranks"): int,
}
_STAGES = ("round_end", "m_step", "validation")


def fault_of(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where it can be resumed from."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return "its check sums are wrong"
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):  # the last: flipped bits name a compression
        return "it is no whole archive"
    except Exception as error:  # what is no checkpoint fails in as many ways as there are files
        return f"it cannot be read ({type(error).__name__})"
    if not isinstance(found, dict) or not isinstance(found.get("seal"), dict):
        return "it has no field seal"
    return _wrong_field(found) or _not_finite(found)


def _wrong_field(checkpoint: Mapping[str, Any]) -> str:
    for path, kind in _FIELDS.items():
        value: Any = checkpoint
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                return f"field {'.'.join(path)} is missing"
            value = value[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"field {'.'.join(path)} is no {kind.__name__}"
        if kind is int and value < 0:
            return f"field {'.'.join(path)} is {value}"
    if (stage := checkpoint["loops"]["fit_loop"]["state_dict"]["stage"]) not in _STAGES:
        return f"field loops.fit_loop.state_dict.stage is {stage!r}"
    lists = {name: checkpoint[name] for name in ("optimizer_states", "lr_schedulers")}
    for name, items in {**lists, "seal.merged": checkpoint["seal"]["merged"]}.items():
        if not all(isinstance(one, dict) for one in items):
            return f"field {name} holds something else than dict"
    if not all(isinstance(one, torch.Tensor) for one in checkpoint["state_dict"].values()):
        return "field state_dict holds something else than tensors"
    return ""


def _not_finite(checkpoint: Mapping[str, Any]) -> str:
    parts = {"state_dict": checkpoint["state_dict"], "seal.merged": checkpoint["seal"]["merged"]}
    for name, part in {**parts, "optimizer_states": checkpoint["optimizer_states"]}.items():
        if not all_finite(_tensors(part)):
            return f"field {name} is not finite"
    return ""


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
