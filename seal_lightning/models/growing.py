"""A cache of keys and values with room for the next tokens, in place of one that is copied whole for every token.

That is for a GPU, where the copies are two thirds of the memory traffic of attention and leave the allocator with
pieces of ever new sizes. On a CPU nothing is won: what was just copied is read next, from the processor's own cache.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens, at least; a quarter of what there is, where that is more


class GrowingLayer(DynamicLayer):
    """One layer's keys and values; the model sees what it sees of a `DynamicLayer`.

    Args:
        layer: Has read the prompts.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None, "only what has been read can be continued"
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._take(layer.keys, layer.values)

    def _take(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = self._all_keys, self._all_values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the new tokens' (b, heads, t, d); returns those of all tokens."""
        assert self.keys is not None
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            room = end - start + max(_ROOM, start // 4)
            self._all_keys, self._all_values = _roomier(self._all_keys, room), _roomier(self._all_values, room)
        self._all_keys[..., start:end, :] = key_states
        self._all_values[..., start:end, :] = value_states
        self.keys, self.values = self._all_keys[..., :end, :], self._all_values[..., :end, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows (b,), in this order."""
        assert self.keys is not None and self.values is not None
        self._take(self.keys.index_select(0, beam_idx), self.values.index_select(0, beam_idx))


def _roomier(states: torch.Tensor, room: int) -> torch.Tensor:
    wider = states.new_empty(*states.shape[:-2], states.shape[-2] + room, states.shape[-1])
    wider[..., : states.shape[-2], :] = states
    return wider


def let_grow(cache: object) -> None:
    """Give the layers of a cache room that keep all tokens; others (windows, states) are left as they are."""
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list):
        return
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.keys.dim() == 4:
            layers[number] = GrowingLayer(layer)
