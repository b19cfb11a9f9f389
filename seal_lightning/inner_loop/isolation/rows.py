"""The rows that are being continued together: their next logits, token after token, with or without a cache.

Which kind of rows a model continues exactly is found out by `isolation.answering`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from seal_lightning.inner_loop.isolation.probing import rotary_limit
from seal_lightning.models.growing import let_grow
from seal_lightning.models.transfer import sent

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

    Args:
        shared: Read a prompt once for all rows that it begins; not where these have adapters of their own.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, shared: bool = False) -> None:
        super().__init__(model, prompts)
        places = {tuple(prompt): place for place, prompt in reversed(list(enumerate(map(tuple, prompts))))}
        read = sorted(places.values()) if shared else self.rows
        self.copies = [read.index(places[tuple(prompt)]) for prompt in prompts] if len(read) < len(prompts) else None
        self.lengths = [len(row) for row in prompts]
        self.longest = max(self.lengths)
        self.ids, self.mask, self.positions = pad_left([prompts[place] for place in read], device=self.device)
        self.cache: dict[str, Any] = {}  # made by the model itself in the first pass
        self.limit = rotary_limit(model.config.get_text_config())
        self.read = self.ids  # everything so far, where it may have to be read again

    @property
    def padded(self) -> bool:
        """Whether some rows are shorter than others that began beside them, so that their padding is to be masked."""
        return min(self.lengths) < self.longest

    def logits(self) -> torch.Tensor:
        first = not self.cache
        logits = self._pass()
        if self.copies is not None:
            index = sent(torch.tensor(self.copies), self.device)
            self.copies = None
            if self.may_leave:
                self._select(index)
                logits = logits.index_select(0, index)
            else:  # a cache that rows cannot be taken from
                self.cache = {}
                self._select_tokens(index)
                logits = self._pass()
        if first and self.device.type != "cpu":
            for cache in self.cache.values():
                let_grow(cache)
        return logits

    def _pass(self) -> torch.Tensor:
        inputs = accepted(
            self.known,
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions,
            logits_to_keep=1,
        )
        with masks_built() if self.padded else nullcontext():
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
        self.lengths = [self.lengths[place] for place in places]
        self._select(sent(torch.tensor(places), self.device))

    def _select(self, index: torch.Tensor) -> None:
        for cache in self.cache.values():
            cache.reorder_cache(index)  # the one selection that states of linear attention know too
        self._select_tokens(index)

    def _select_tokens(self, index: torch.Tensor) -> None:
        self.ids, self.mask, self.positions = self.ids[index], self.mask[index], self.positions[index]
        if self.limit is not None:
            self.read = self.read[index]


class RecomputedRows(Rows):
    """Rows that are read anew for every token, padded on the right: slow, and right for every causal model."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(model, prompts)
        longest = max(map(len, prompts))
        padded = [[*row, *[row[-1]] * (longest - len(row))] for row in prompts]
        self.ids = sent(torch.tensor(padded), self.device)
        self.last = [len(row) - 1 for row in prompts]  # the place of each row's last token

    def logits(self) -> torch.Tensor:
        kept = sorted(set(self.last))
        keep = accepted(self.known, logits_to_keep=sent(torch.tensor(kept), self.device))
        logits = self.model(input_ids=self.ids, use_cache=False, **keep).logits
        places = sent(torch.tensor([kept.index(place) for place in self.last] if keep else self.last), self.device)
        return logits[torch.arange(len(places), device=self.device), places].float()

    def append(self, tokens: torch.Tensor) -> None:
        self.last = [place + 1 for place in self.last]
        if max(self.last) == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.ids.scatter_(1, sent(torch.tensor(self.last)[:, None], self.device), tokens[:, None])

    def _keep(self, places: Sequence[int]) -> None:
        self.last = [self.last[place] for place in places]
        kept = self.ids.index_select(0, sent(torch.tensor(places), self.device))
        self.ids = kept[:, : max(self.last) + 1].contiguous()


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


def _built(*args: Any, **options: Any) -> torch.Tensor | None:
    return sdpa_mask(*args, **{**options, "allow_is_causal_skip": False})


@contextmanager
def masks_built() -> Iterator[None]:
    """Masks for torch's attention are made without asking the device, for every token, whether one is needed."""
    known = ALL_MASK_ATTENTION_FUNCTIONS
    before = known["sdpa"]
    known["sdpa"] = _built
    try:
        yield
    finally:
        known["sdpa"] = before


def pad_left(rows: Sequence[Sequence[int]], *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions of rows that end together, each (B, T); what is masked repeats a row's end."""
    longest = max(map(len, rows))
    ids = sent(torch.tensor([[row[-1]] * (longest - len(row)) + list(row) for row in rows]), device)
    mask = sent(torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]), device)
    return ids, mask, (mask.cumsum(1) - 1).clamp_(min=0)
