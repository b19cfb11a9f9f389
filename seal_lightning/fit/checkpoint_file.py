"""A fit's checkpoint, checked before anything is built from it: whole, with all its fields, and finite.

It holds tensors and plain values only, so reading one runs no code (`weights_only`). The archive's own check sums tell
flipped bits. What a checkpoint is about (settings, base model) is compared later, when they are known.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from seal_lightning.files.saving import whole
from seal_lightning.models.finite import all_finite

Checkpoint: TypeAlias = dict[str, Any]  # what Lightning saves: tensors and plain values, of any depth

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


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent. Lightning's own go through the folder for temporary files."""

    def save_checkpoint(
        self, checkpoint: Mapping[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        content = io.BytesIO()  # torch's own writing to a file forgets why it failed
        torch.save(checkpoint, content)
        with whole(path) as aside, aside.open("wb") as file:
            file.write(content.getbuffer())


def fault_of(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where it can be resumed from."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return "its check sums are wrong"
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):  # the last: flipped bits name a compression
        return "it is not a whole archive"
    except Exception as error:  # what is not a checkpoint fails in as many ways as there are files
        return f"it cannot be read ({type(error).__name__})"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("seal"), dict):
        return "it has no field seal"
    return _wrong_field(checkpoint) or _not_finite(checkpoint)


def _wrong_field(checkpoint: Checkpoint) -> str:
    for path, kind in _FIELDS.items():
        value: Any = checkpoint
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                return f"field {'.'.join(path)} is missing"
            value = value[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"field {'.'.join(path)} is not of type {kind.__name__}"
        if kind is int and value < 0:
            return f"field {'.'.join(path)} is {value}"
    if (stage := checkpoint["loops"]["fit_loop"]["state_dict"]["stage"]) not in _STAGES:
        return f"field loops.fit_loop.state_dict.stage is {stage!r}"
    lists = {name: checkpoint[name] for name in ("optimizer_states", "lr_schedulers")}
    for name, items in {**lists, "seal.merged": checkpoint["seal"]["merged"]}.items():
        if not all(isinstance(item, dict) for item in items):
            return f"field {name} holds something else than dict"
    if not all(isinstance(item, torch.Tensor) for item in checkpoint["state_dict"].values()):
        return "field state_dict holds something else than tensors"
    return ""


def _not_finite(checkpoint: Checkpoint) -> str:
    parts = {"state_dict": checkpoint["state_dict"], "seal.merged": checkpoint["seal"]["merged"]}
    parts["seal.references"] = checkpoint["seal"].get("references")
    for name, part in {**parts, "optimizer_states": checkpoint["optimizer_states"]}.items():
        if not all_finite(_tensors(part)):
            return f"field {name} is not finite"
    return ""


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
