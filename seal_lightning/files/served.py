"""Weights on disk that others may read: safetensors files with the mode that any new file gets.

From 0.8 on, safetensors writes through a private temporary file, which leaves weights that only their owner can read
beside a configuration that everybody can: a server under another user then finds no adapter. Everything that saves
weights here goes through these functions, so that the umask, or the folder's default access list, decides again. What
libraries write as several files goes into a folder that takes its place as one (`saving.py`).
"""

from __future__ import annotations

import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from seal_lightning.files.saving import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as one safetensors file, whole or not at all, readable as the umask says. Raises `SavingError`."""
    with whole(path) as aside:
        write_tensors(tensors, aside, metadata=metadata)


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """As `save_tensors` into a folder that is written aside already (`saving.whole_files`)."""
    save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    path.chmod(_mode_of_new_files(path.parent))


def save_model(model: PreTrainedModel, folder: str | Path, *, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a transformers model into a folder, so that a server can load it, readable as the umask says.

    Args:
        model: The model; its configuration is written beside the weights.
        folder: A folder that is written aside (`saving.whole`); made if missing.
        state: The weights by name; the model's own where unset.
    """
    folder = Path(folder)
    model.save_pretrained(folder, state_dict=None if state is None else dict(state))
    mode = _mode_of_new_files(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def _mode_of_new_files(folder: Path) -> int:
    """The mode of new files in a folder, found by making one: reading the umask sets it for all threads."""
    probe = folder / f".mode-{uuid.uuid4().hex}"
    probe.touch(0o666)
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
