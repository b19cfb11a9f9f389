"""How many rows are generated together where no option says so.

On a CPU a number that suits its cache. On a GPU a decoding step takes about as long for hundreds of rows as for ten, so
as many as the memory takes, in steps: what is free by a little more or less does not change the number. Where the
estimate is wrong, `models.memory.in_parts` halves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from seal_lightning.models.memory import free_memory
from seal_lightning.policy.policy import Policy

STEPS = (32, 64, 128, 256, 512)
_SHARE = 0.8  # of the free memory; the rest is for what is not counted here
_CHOOSING = 64  # bytes for each word of the vocabulary: logits, probabilities, their sums and their order


@dataclass(frozen=True, slots=True)
class RowMemory:
    """What rows of a model need while they are continued.

    Attributes:
        kept: Bytes in the cache for each token.
        passing: Bytes for each token of a prompt while it is read: what one layer holds at a time.
        choosing: Bytes a row to choose a token.
    """

    kept: int
    passing: int
    choosing: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> RowMemory:
        """From the model's configuration; sizes that it does not name count as those of plain attention."""
        config = model.config.get_text_config()
        hidden, heads = _named(config, "hidden_size", 1024), _named(config, "num_attention_heads", 1)
        width = _named(config, "num_key_value_heads", heads) * _named(config, "head_dim", hidden // heads)
        layers, inner = _named(config, "num_hidden_layers", 32), _named(config, "intermediate_size", 4 * hidden)
        size = model.dtype.itemsize
        return cls(
            kept=2 * layers * width * size,
            passing=(8 * hidden + 3 * inner) * size,
            choosing=_CHOOSING * _named(config, "vocab_size", 1 << 16),
        )

    def row(self, *, prompt: int, new: int) -> int:
        """Bytes of a row with so many tokens."""
        return self.kept * (prompt + new) + self.passing * prompt + self.choosing


def _named(config: PretrainedConfig, name: str, otherwise: int) -> int:
    """A size in a configuration, the largest where its layers have several."""
    found = getattr(config, name, None)
    sizes = found if isinstance(found, list | tuple) else [found]
    return max((size for size in sizes if type(size) is int and size > 0), default=otherwise)


def rows_together(
    policy: Policy, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, given: int | None, on_cpu: int
) -> int:
    """Rows that are continued together.

    Args:
        policy: The policy, on its device.
        prompts: Token ids of all rows.
        max_new_tokens: New tokens a row, at most.
        given: The number that an option gives, which is taken.
        on_cpu: Otherwise the number for a CPU.
    """
    if given is not None:
        return given
    if policy.device.type == "cpu":
        return on_cpu
    longest = max(map(len, prompts), default=1)
    room = max(0, min(max_new_tokens, policy.window - longest))
    return _step(RowMemory.of(policy.model).row(prompt=longest, new=room), policy.device)


def _step(each: int, device: torch.device) -> int:
    fits = int(_SHARE * free_memory(device)) // each
    return max((step for step in STEPS if step <= fits), default=STEPS[0])
