"""How many adapters a device trains at the same time, from what is free on it and what a model's passes take.

Estimates by the model's configuration, rounded down to fixed steps: slots decide beside which others an adapter trains,
so that they must not change with what a process did before. Where an estimate is too high, `slots.py` halves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from seal_lightning.models.memory import free_memory

STEPS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # numbers of slots
PASSES = (1024, 2048, 4096, 8192, 16384)  # tokens of a forward pass on a GPU
PASS_ON_CPU = 4096
SHARE = 0.9  # of the free memory, for everything
BANKS = {"cpu": 0.4}  # of it, for the banks alone: a CPU's memory is shared with other processes
MOST = {"cpu": 16}  # slots, beyond which nothing gets faster
RESULTS = 3  # finished adapters for each slot that there is always room for
TYPICAL = 64  # tokens of a minibatch: a statement, twice over


def result_dtype(model: PreTrainedModel) -> torch.dtype:
    """The dtype of finished adapters: bfloat16 for a base of that dtype, which rounds their outputs anyway."""
    return torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32


def bytes_a_token(model: PreTrainedModel) -> int:
    """About what a forward pass keeps of each token for the backward pass, in bytes.

    In every layer: gate, up and their products (4 x intermediate); queries, keys, values, inputs of adapters and the
    attention's output (6 x hidden); and both norms in float32. For Qwen2.5-7B in bfloat16 that is 7 MB.
    """
    config = model.config.get_text_config()
    hidden = getattr(config, "hidden_size", None) or 1024
    experts = getattr(config, "num_experts_per_tok", None) or 1
    sizes = getattr(config, "intermediate_size", None) or 4 * hidden
    intermediate = max(sizes) if isinstance(sizes, (list, tuple)) else sizes  # Gemma-3n has one for each layer
    layers = getattr(config, "num_hidden_layers", None) or 24
    return layers * (model.dtype.itemsize * (4 * experts * intermediate + 6 * hidden) + 16 * hidden)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a device has room for.

    Attributes:
        free: Bytes that the inner loop may take.
        banks: Bytes that adapters may take of them.
        parameters: Parameters of an adapter.
        token: Bytes that a pass keeps of a token.
        result: Bytes of a parameter of a finished adapter.
        most: Slots at most.
    """

    free: int
    banks: int
    parameters: int
    token: int
    result: int
    most: int = STEPS[-1]

    @staticmethod
    def of(model: PreTrainedModel, *, parameters: int) -> Capacity:
        """What the model's device has room for now."""
        device, free = model.device, free_memory(model.device)
        return Capacity(
            free=int(SHARE * free),
            banks=int(BANKS.get(device.type, SHARE) * free),
            parameters=parameters,
            token=bytes_a_token(model),
            result=result_dtype(model).itemsize,
            most=MOST.get(device.type, STEPS[-1]),
        )

    def slots(self, *, tokens: int) -> int:
        """Adapters that train at the same time beside `RESULTS` finished ones each, in passes of so many tokens."""
        fits = [n for n in STEPS if n <= self.most and self._banks(n, RESULTS * n) <= self._for_banks(n, tokens)]
        return max(fits, default=1)

    def results(self, slots: int, *, tokens: int) -> int:
        """Finished adapters that there is room for beside so many slots."""
        left = self._for_banks(slots, tokens) - self._banks(slots, 0)
        return max(RESULTS * slots, left // (self.result * self.parameters))

    def pass_tokens(self) -> int:
        """Tokens of a forward pass whose activations take two fifths of the room."""
        return max((n for n in PASSES if n * self.token <= 0.4 * self.free), default=PASSES[0])

    def _banks(self, slots: int, results: int) -> int:
        """Bytes of what trains and of what is finished.

        What trains has parameters, gradients and two moments in float32, and for a bfloat16 base the parameters
        rounded and what rounding takes from them.
        """
        each = 20 if self.result == 2 else 16
        return (each * slots + self.result * results) * self.parameters

    def _for_banks(self, slots: int, tokens: int) -> int:
        """Bytes that a pass leaves for adapters."""
        return min(self.banks, self.free - min(tokens, TYPICAL * slots) * self.token)
