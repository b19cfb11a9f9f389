"""The weights of a model in memory that several processes see: written by one, used in place by the others.

Whoever uses them has loaded the same model, and gets to the bits that the writer's has by now, whatever was trained or
merged since, without a copy of its own.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator

import torch
from torch import nn

from seal_lightning.errors import ModelError

_ALIGNED = 64  # bytes, as torch's own allocations are


class SharedWeights:
    """A file in memory that holds the parameters of a module; it has no name and is gone with its last process.

    Args:
        module: The module that has them, in the memory of a CPU.
    """

    def __init__(self, module: nn.Module) -> None:
        self._shapes = _shapes(module)
        size = max(1, sum(_room(parameter) for parameter in module.parameters()))
        if hasattr(os, "memfd_create"):
            self.number = os.memfd_create("seal-weights")
        else:
            with tempfile.TemporaryFile() as file:
                self.number = os.dup(file.fileno())
        os.ftruncate(self.number, size)
        self._memory: mmap.mmap | None = mmap.mmap(self.number, size)

    def __getstate__(self) -> dict[str, object]:
        """Of a process that inherits the file, under the same number."""
        return {**vars(self), "_memory": None}

    def write(self, module: nn.Module) -> None:
        """Put the module's parameters there, as they are now."""
        with torch.no_grad():
            for parameter, place in self._places(module):
                place.copy_(parameter)

    def use_in(self, module: nn.Module) -> None:
        """Let the module compute with them; it must not change them.

        Raises:
            ModelError: Its parameters are not those that were written.
        """
        if _shapes(module) != self._shapes:
            raise ModelError("the base model is another one when it is loaded again")
        for parameter, place in self._places(module):
            parameter.data = place

    def close(self) -> None:
        """Give the file back in this process."""
        os.close(self.number)
        self._memory = None  # tensors may still be on it

    def _places(self, module: nn.Module) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        if self._memory is None:
            self._memory = mmap.mmap(self.number, os.fstat(self.number).st_size)
        start = 0
        for parameter in module.parameters():
            if parameter.numel():
                flat = torch.frombuffer(self._memory, dtype=parameter.dtype, count=parameter.numel(), offset=start)
                yield parameter, flat.view(parameter.shape)
            start += _room(parameter)


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(name, tuple(parameter.shape), parameter.dtype) for name, parameter in module.named_parameters()]


def _room(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() * parameter.element_size() // _ALIGNED) * _ALIGNED
