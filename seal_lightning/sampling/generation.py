"""Batched generation with the policy: one verb for sampling self-edits and for answers of many adapters.

Which prompts share a batch, and how, depends on the model (`isolation.answering`); most are padded on the left and
share one cache. A row that has ended leaves the batch, so a long answer does not keep the others computing. The model's
shipped generation settings (repetition penalties and the like) are not used: what is asked for is what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Protocol

import torch

from seal_lightning.errors import ModelError
from seal_lightning.isolation import PADDED, AnsweringWay, answering_way
from seal_lightning.policy import Policy

Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
_GONE = 0.2  # share of a batch that has ended before it is made smaller: that copies the cache


class Adapters(Protocol):
    """Trained adapters that rows are continued with."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers that they change."""
        ...

    def answering(self, jobs: Sequence[int | None]) -> AbstractContextManager[Answering]:
        """Run the model with the adapter of job `jobs[b]` on row b (None: without one)."""
        ...


class Answering(Protocol):
    """Adapters at work on a batch."""

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on, in this order."""
        ...


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
    way: AnsweringWay | None = None,
) -> list[list[int]]:
    """Continue every prompt of one batch until its end-of-sequence token.

    Args:
        policy: In evaluation mode.
        prompts: Token ids, one list a row.
        max_new_tokens: At most this many a row; fewer where the model's window ends.
        choose: Picks the next tokens (b,) from the logits (b, V) of those rows of `prompts` that are still going.
        on_keep: Told which rows of the current batch go on when others leave it.
        way: How the rows are continued; the prompts have to be one of its `groups`. The model's own without adapters
            where unset.

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
            "the passage, or use a model with a longer window"
        )
    stops = set(stop_tokens(policy))
    batch = (way or answering_way(policy.model, longest=longest + room)).start(policy.model, prompts)
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
        if batch.may_leave and batch.going.count(False) > _GONE * len(batch.going):
            on_keep(batch.shrink())
    return texts


def batches(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    size: int,
    max_new_tokens: int,
    by_length: bool = True,
    way: AnsweringWay = PADDED,
    owners: Sequence[int | None] = (),
) -> Iterator[list[int]]:
    """Which prompts to generate for together: their numbers, at most `size` at once.

    Shortest first, so that little is padding; or in their own order, so that neighbours (the queries of one adapter)
    stay together.

    A prompt that leaves less than `max_new_tokens` in the model's window meets only prompts of its own length: what a
    row may write then does not depend on the others. What else must not meet follows from the `way` and the `owners`,
    the adapter of each prompt.
    """

    def room(row: int) -> int:
        return min(max_new_tokens, policy.window - len(prompts[row]))

    def rank(row: int) -> tuple[int, int]:
        return -room(row), len(prompts[row]) if by_length else 0

    for _, group in groupby(sorted(range(len(prompts)), key=rank), key=room):
        for rows in way.groups(prompts, list(group), owners or [None] * len(prompts)):
            yield from (rows[start : start + size] for start in range(0, len(rows), size))


def generate_all(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    size: int,
    max_new_tokens: int,
    choose: Callable[[Sequence[int]], Choose] = lambda rows: most_likely,
    on_done: Callable[[int], None] = lambda count: None,
    adapters: Adapters | None = None,
    jobs: Sequence[int | None] = (),
) -> list[tuple[str, int]]:
    """Continue any number of prompts; the text of each, and how many tokens it took.

    Args:
        policy: In evaluation mode.
        prompts: Token ids, one list a row.
        size: Rows generated together.
        max_new_tokens: At most this many a row.
        choose: How the rows of a batch, by their numbers, pick their tokens.
        on_done: Told how many were finished since the last call.
        adapters: To continue with; without them the policy does it alone.
        jobs: Which of the adapters each prompt gets (None: none).

    Raises:
        ModelError: A prompt fills the window, or the model cannot be run.
    """
    written: dict[int, tuple[str, int]] = {}
    longest = max(map(len, prompts), default=0) + max_new_tokens
    way = answering_way(policy.model, adapters.layers if adapters else (), longest=longest)
    for rows in batches(
        policy,
        prompts,
        size=size,
        max_new_tokens=max_new_tokens,
        by_length=adapters is None,  # or neighbours of one adapter stay together
        way=way,
        owners=jobs,
    ):
        part = [prompts[row] for row in rows]
        with adapters.answering([jobs[row] for row in rows]) if adapters else nullcontext() as working:
            found = generate(
                policy,
                part,
                max_new_tokens=max_new_tokens,
                choose=choose(rows),
                on_keep=working.keep if working else lambda rows: None,
                way=way,
            )
        for row, tokens in zip(rows, found, strict=True):
            written[row] = policy.tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)
        on_done(len(rows))
    return [written[row] for row in range(len(prompts))]


def stop_tokens(policy: Policy) -> list[int]:
    """The token ids that end a text: the model's own and the tokenizer's."""
    shipped = policy.model.generation_config.eos_token_id
    ids = shipped if isinstance(shipped, list) else [shipped]
    return sorted({token for token in (*ids, policy.tokenizer.eos_token_id) if token is not None})
