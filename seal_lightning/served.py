"""Weights on disk that others may read: safetensors files with the mode that any new file gets.

safetensors writes through a private temporary file (from 0.8 on), which leaves weights that their owner alone can read,
beside a configuration that everybody can: a server under another user then finds no adapter. Whatever saves weights
here goes through these functions; the umask, or the folder's default access list, decides again.
"""

from __future__ import annotations

import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as one safetensors file, readable as the umask says."""
    path = Path(path)
    save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    path.chmod(_mode_of_new_files(path.parent))


def save_model(model: Any, folder: str | Path, *, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a transformers model as a folder that a server can load, readable as the umask says.

    Args:
        model: The model; its configuration is written beside the weights.
        folder: Made when missing.
        state: The weights, by name; the model's own where unset.
    """
    folder = Path(folder)
    model.save_pretrained(folder, **({} if state is None else {"state_dict": dict(state)}))
    mode = _mode_of_new_files(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def _mode_of_new_files(folder: Path) -> int:
    """Of files in a folder. Asked of a file, since reading the umask sets it for all threads of the process."""
    probe = folder / f".mode-{uuid.uuid4().hex}"
    probe.touch(0o666)
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
