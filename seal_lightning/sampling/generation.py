"""Batched generation with the policy: one verb for sampling self-edits and for answers of many adapters.

Prompts are padded on the left and share one KV cache. A row that has ended leaves the batch, so a long answer does not
keep the others computing. The model's shipped generation settings (repetition penalties and the like) are not used:
what is asked for is what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

from seal_lightning.errors import ModelError
from seal_lightning.policy import Policy

Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
_GONE = 0.2  # share of a batch that has ended before it is made smaller: that copies the cache


def most_likely(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Greedy choice."""
    return logits.argmax(dim=-1)


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    choose: Choose = most_likely,
    on_keep: Callable[[Sequence[int]], None] = lambda rows: None,
) -> list[list[int]]:
    """Continue every prompt until its end-of-sequence token.

    Args:
        policy: In evaluation mode.
        prompts: Token ids, one list a row.
        max_new_tokens: At most this many a row; fewer where the model's window ends.
        choose: Picks the next tokens (b,) from the logits (b, V) of those rows of `prompts` that are still going.
        on_keep: Told which rows of the current batch go on when others leave it.

    Returns:
        The new token ids of each row, without the end-of-sequence token.

    Raises:
        ModelError: A prompt fills the window.
    """
    longest = max(map(len, prompts))
    room = min(max_new_tokens, policy.window - longest)
    if room < 1:
        raise ModelError(
            f"a prompt of {longest} tokens leaves no room in the model's window of {policy.window}; shorten or split "
            "the passage (seal adapt: a lower --passage_chars), or use a model with a longer window"
        )
    stops = set(stop_tokens(policy))
    batch = _Batch(policy, prompts, longest)
    texts: list[list[int]] = [[] for _ in prompts]
    for _ in range(room):
        tokens = choose(batch.logits(), batch.rows)
        for place, token in enumerate(tokens.tolist()):
            row = batch.rows[place]
            if batch.going[place] and token not in stops:
                texts[row].append(token)
            else:
                batch.going[place] = False
        if not any(batch.going):
            break
        batch.append(tokens)
        if batch.going.count(False) > _GONE * len(batch.going):
            on_keep(batch.shrink())
    return texts


class _Batch:
    """The rows that are being continued: their next inputs, mask and cache."""

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]], longest: int) -> None:
        self.model: Any = policy.model
        self.rows = list(range(len(prompts)))
        self.going = [True] * len(prompts)
        self.ids, self.mask, self.positions = pad_left(prompts, pad=policy.tokenizer.pad_token_id, device=policy.device)
        self.padded = any(len(row) < longest for row in prompts)
        self.cache = DynamicCache(config=self.model.config)

    def logits(self) -> torch.Tensor:
        """Of the next token of every row, (b, V), float32."""
        output = self.model(
            input_ids=self.ids,
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def append(self, tokens: torch.Tensor) -> None:
        self.ids = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)

    def shrink(self) -> list[int]:
        """Let the rows leave that have ended; returns the places of the others."""
        keep = [place for place, going in enumerate(self.going) if going]
        index = torch.tensor(keep, device=self.ids.device)
        self.cache.batch_select_indices(index)
        self.ids, self.mask, self.positions = self.ids[index], self.mask[index], self.positions[index]
        self.rows = [self.rows[place] for place in keep]
        self.going = [True] * len(keep)
        return keep


def batches(
    policy: Policy, prompts: Sequence[Sequence[int]], *, size: int, max_new_tokens: int, by_length: bool = True
) -> Iterator[list[int]]:
    """Which prompts to generate for together: their numbers, at most `size` at once.

    Shortest first, so that little is padding; or in their own order, so that neighbours (the queries of one adapter)
    stay together.

    A prompt that leaves less than `max_new_tokens` in the model's window meets only prompts of its own length: what a
    row may write then does not depend on the others.
    """

    def room(row: int) -> int:
        return min(max_new_tokens, policy.window - len(prompts[row]))

    def rank(row: int) -> tuple[int, int]:
        return -room(row), len(prompts[row]) if by_length else 0

    for _, group in groupby(sorted(range(len(prompts)), key=rank), key=room):
        rows = list(group)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def generate_all(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    size: int,
    max_new_tokens: int,
    choose: Callable[[Sequence[int]], Choose] = lambda rows: most_likely,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[tuple[str, int]]:
    """Continue any number of prompts; the text of each, and how many tokens it took.

    Args:
        policy: In evaluation mode.
        prompts: Token ids, one list a row.
        size: Rows generated together.
        max_new_tokens: At most this many a row.
        choose: How the rows of a batch, by their numbers, pick their tokens.
        on_done: Told how many were finished since the last call.
    """
    written: dict[int, tuple[str, int]] = {}
    for rows in batches(policy, prompts, size=size, max_new_tokens=max_new_tokens):
        found = generate(policy, [prompts[row] for row in rows], max_new_tokens=max_new_tokens, choose=choose(rows))
        for row, tokens in zip(rows, found, strict=True):
            written[row] = policy.tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)
        on_done(len(rows))
    return [written[row] for row in range(len(prompts))]


def is_cut(policy: Policy, prompt: Sequence[int], count: int, max_new_tokens: int) -> bool:
    """Whether a continuation of `count` tokens ended at a limit, not by itself: its end would have been one more."""
    return count >= min(max_new_tokens, policy.window - len(prompt))


def pad_left(
    rows: Sequence[Sequence[int]], *, pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions of rows that end together, each (B, T)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(1) - 1).clamp_(min=0)


def stop_tokens(policy: Policy) -> list[int]:
    """The token ids that end a text: the model's own and the tokenizer's."""
    shipped = policy.model.generation_config.eos_token_id
    ids = shipped if isinstance(shipped, list) else [shipped]
    return sorted({token for token in (*ids, policy.tokenizer.eos_token_id) if token is not None})
