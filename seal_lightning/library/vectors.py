"""Vectors of texts, kept in a file: only texts that are new are computed, and a damaged file is written anew."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from seal_lightning.files.saving import save_bytes

log = logging.getLogger(__name__)


class KeptVectors:
    """The vectors of texts by their digests.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def of(self, texts: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """The vectors of some texts (texts, width); those of other texts leave the file."""
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() for text in texts]
        held = self._read()
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in held}
        if new:
            held |= dict(zip(new, compute(list(new.values())), strict=True))
        if new or len(held) > len(set(keys)):
            self._write({key: held[key] for key in dict.fromkeys(keys)})
        return np.stack([held[key] for key in keys]) if keys else np.zeros((0, 0), dtype=np.float32)

    def _read(self) -> dict[str, np.ndarray]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            held = load_file(self.path)
        except (OSError, ValueError, SafetensorError) as error:
            log.info("%s: cannot be read (%s), so it is written anew", self.path, error)
            return {}
        sound = len({(vector.shape, vector.dtype) for vector in held.values()}) <= 1
        return held if sound and all(vector.dtype == np.float32 for vector in held.values()) else {}

    def _write(self, held: dict[str, np.ndarray]) -> None:
        """Best done, but no reason to fail: a library may lie where nothing can be written."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(exist_ok=True)
            save_bytes(self.path, save({key: np.ascontiguousarray(vector) for key, vector in held.items()}))
        except OSError as error:
            log.info("%s: not kept (%s)", self.path, error)
