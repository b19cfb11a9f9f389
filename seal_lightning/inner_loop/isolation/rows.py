"""The rows that are being continued together: their next logits, token after token, with or without a cache.

Which kind of rows a model continues exactly is found out by `isolation.answering`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Any

import torch
from transformers import PreTrainedModel

from seal_lightning.inner_loop.isolation.probing import rotary_limit

CACHES = ("past_key_values", "cache_params", "state")  # what models call what they remember of a row


class Rows(ABC):
    """Rows of tokens that grow.

    Attributes:
        rows: Which of the prompts each row continues.
        going: Whether each row has not ended yet.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rows = list(range(len(prompts)))
        self.going = [True] * len(prompts)
        self.known = known_to(model)  # asked once: it takes as long as a small model's layer

    @abstractmethod
    def logits(self) -> torch.Tensor:
        """Of the next token of every row, (b, V), float32."""

    @abstractmethod
    def append(self, tokens: torch.Tensor) -> None:
        """One more token for every row, (b,)."""

    @property
    def may_leave(self) -> bool:
        """Whether rows can leave the batch."""
        return True

    def shrink(self) -> list[int]:
        """Let the rows leave that have ended; returns the places of the others."""
        keep = [place for place, going in enumerate(self.going) if going]
        self._keep(keep)
        self.rows = [self.rows[place] for place in keep]
        self.going = [True] * len(keep)
        return keep

    @abstractmethod
    def _keep(self, places: Sequence[int]) -> None: ...


class CachedRows(Rows):
    """Rows with one cache of keys, values and states; shorter ones are padded on the left.

    Where a row gets so long that its rotary embeddings change, it is read anew once.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(model, prompts)
        longest = max(map(len, prompts))
        self.ids, self.mask, self.positions = pad_left(prompts, device=self.device)
        self.padded = any(len(row) < longest for row in prompts)
        self.cache: dict[str, Any] = {}  # made by the model itself in the first pass
        self.limit = rotary_limit(model.config.get_text_config())
        self.read = self.ids  # everything so far, where it may have to be read again

    def logits(self) -> torch.Tensor:
        inputs = accepted(
            self.known,
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions,
            logits_to_keep=1,
        )
        output = self.model(input_ids=self.ids, use_cache=True, **self.cache, **inputs)
        self.cache = {name: cache for name in CACHES if (cache := getattr(output, name, None)) is not None}
        if not self.cache:
            raise TypeError(f"{type(self.model).__name__} gives back no cache")
        return output.logits[:, -1].float()

    @property
    def may_leave(self) -> bool:
        return all(hasattr(cache, "reorder_cache") for cache in self.cache.values())

    def append(self, tokens: torch.Tensor) -> None:
        self.ids = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        if self.limit is not None:
            self.read = torch.cat([self.read, self.ids], dim=1)
            if self.read.shape[1] == self.limit + 1:  # other frequencies from here on: what is cached has the old ones
                self.cache, self.ids = {}, self.read
                self.positions = (self.mask.cumsum(1) - 1).clamp_(min=0)

    def _keep(self, places: Sequence[int]) -> None:
        index = torch.tensor(places, device=self.device)
        for cache in self.cache.values():
            cache.reorder_cache(index)  # the one selection that states of linear attention know too
        self.ids, self.mask, self.positions = self.ids[index], self.mask[index], self.positions[index]
        if self.limit is not None:
            self.read = self.read[index]


class RecomputedRows(Rows):
    """Rows that are read anew for every token, padded on the right: slow, and right for every causal model."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(model, prompts)
        self.tokens = [list(prompt) for prompt in prompts]

    def logits(self) -> torch.Tensor:
        longest = max(map(len, self.tokens))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in self.tokens], device=self.device)
        last = torch.tensor([len(row) - 1 for row in self.tokens], device=self.device)
        kept, places = last.unique(return_inverse=True)
        if keep := accepted(self.known, logits_to_keep=kept):
            last = places
        logits = self.model(input_ids=ids, use_cache=False, **keep).logits
        return logits[torch.arange(len(last), device=self.device), last].float()

    def append(self, tokens: torch.Tensor) -> None:
        for row, token in zip(self.tokens, tokens.tolist(), strict=True):
            row.append(token)

    def _keep(self, places: Sequence[int]) -> None:
        self.tokens = [self.tokens[place] for place in places]


def last_logits(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, last: int) -> torch.Tensor:
    """Of the tokens after each of the `last` positions of every row, (b, last, V); rows are padded on the left."""
    ids, mask, positions = pad_left(rows, device=next(model.parameters()).device)
    padded = {"attention_mask": mask} if len({len(row) for row in rows}) > 1 else {}
    inputs = accepted(known_to(model), position_ids=positions, logits_to_keep=last, **padded)
    return model(input_ids=ids, use_cache=False, **inputs).logits[:, -last:]


def known_to(model: PreTrainedModel) -> frozenset[str]:
    """The names of the arguments of a model's forward pass."""
    return frozenset(inspect.signature(model.forward).parameters)


def accepted(known: Set[str], **offered: object) -> dict[str, object]:
    """Those arguments that are known."""
    return {name: value for name, value in offered.items() if name in known}


def pad_left(rows: Sequence[Sequence[int]], *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions of rows that end together, each (B, T); what is masked repeats a row's end."""
    longest = max(map(len, rows))
    ids = torch.tensor([[row[-1]] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(1) - 1).clamp_(min=0)
