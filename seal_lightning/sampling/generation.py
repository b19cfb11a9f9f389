"""Batched generation with the policy: one verb for sampling self-edits and for greedy answers.

Prompts are padded on the left and run through `transformers`' own `generate`. The model's shipped generation settings
(repetition penalties and the like) are set aside, so that what is asked for is what is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from seal_lightning.errors import ModelError
from seal_lightning.policy import Policy


@torch.no_grad()
def generate(
    policy: Policy, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, processors: Sequence[Any] = ()
) -> list[list[int]]:
    """Continue every prompt greedily after `processors` changed the logits.

    Args:
        policy: In evaluation mode.
        prompts: Token ids, one list a row.
        max_new_tokens: At most this many a row; fewer where the model's window ends.
        processors: `transformers` logits processors.

    Returns:
        The new token ids of each row, without the end-of-sequence token and what follows it.

    Raises:
        ModelError: A prompt fills the window.
    """
    longest = max(map(len, prompts))
    room = min(max_new_tokens, policy.window - longest)
    if room < 1:
        raise ModelError(
            f"a prompt of {longest} tokens leaves no room in the model's window of {policy.window}; shorten or split "
            "the passage, or use a model with a longer window"
        )
    pad = policy.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in prompts], device=policy.device)  # (B, T)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=policy.device)
    stops = stop_tokens(policy)
    settings = GenerationConfig(
        max_new_tokens=room, do_sample=False, pad_token_id=pad, eos_token_id=stops, use_cache=True
    )
    with _own_settings(policy.model, settings):
        output = policy.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList(processors),
        )
    return [_until(row, stops) for row in output[:, longest:].tolist()]


def batches(policy: Policy, prompts: Sequence[Sequence[int]], *, size: int, max_new_tokens: int) -> Iterator[list[int]]:
    """Which prompts to generate for together: their numbers, shortest first, at most `size` at once.

    A prompt that leaves less than `max_new_tokens` in the model's window meets only prompts of its own length: what a
    row may write then does not depend on the others.
    """

    def room(row: int) -> int:
        return min(max_new_tokens, policy.window - len(prompts[row]))

    for _, group in groupby(sorted(range(len(prompts)), key=lambda row: len(prompts[row])), key=room):
        rows = list(group)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def stop_tokens(policy: Policy) -> list[int]:
    """The token ids that end a text: the model's own and the tokenizer's."""
    shipped = policy.model.generation_config.eos_token_id
    ids = shipped if isinstance(shipped, list) else [shipped]
    return sorted({token for token in (*ids, policy.tokenizer.eos_token_id) if token is not None})


@contextmanager
def _own_settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    shipped = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = shipped


def _until(tokens: list[int], stops: Sequence[int]) -> list[int]:
    ends = [index for index, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0]] if ends else tokens
