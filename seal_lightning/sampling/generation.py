"""Batched generation with the policy: one verb for sampling self-edits and for answers of many adapters.

Which prompts share a batch, and how, depends on the model (`isolation.answering`); most are padded on the left and
share one cache. A row that has ended leaves the batch, so a long answer does not keep the others computing. The model's
shipped generation settings (repetition penalties and the like) are not used: what is asked for is what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch

from seal_lightning.errors import ModelError
from seal_lightning.inner_loop.isolation import PADDED, AnsweringWay, answering_way
from seal_lightning.inner_loop.isolation.rows import Rows
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.finite import rows_finite
from seal_lightning.models.kernels import planless_attention
from seal_lightning.models.memory import in_parts
from seal_lightning.policy.policy import Policy

# From logits (b, V), the rows of the prompts that they belong to, and what each prompt was continued by: tokens (b,).
Choose = Callable[[torch.Tensor, Sequence[int], Sequence[Sequence[int]]], torch.Tensor]
OnDone = Callable[[int], None]  # told how many texts or answers were finished since the last call; may raise
_BROKEN = -1  # in place of a token that was chosen from logits that are not finite
_GONE = 0.2  # share of a batch that has ended before it is made smaller: that copies the cache


def quiet(count: int) -> None:
    """Listens to nothing."""


def most_likely(logits: torch.Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> torch.Tensor:
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
    shared: bool = False,
    on_broken: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt of one batch until its end-of-sequence token.

    Args:
        policy: The policy, in evaluation mode.
        prompts: Token ids, one list a row.
        max_new_tokens: New tokens a row, at most; fewer where the model's window ends.
        choose: Picks the next tokens (b,) from the logits (b, V) of the rows that are in the batch.
        on_keep: Told which rows of the current batch go on when others leave it.
        way: How the rows are continued; the prompts have to be one of its `groups`. The model's own without adapters
            where unset.
        shared: Read a prompt once for all rows that it begins: they have no adapters of their own.
        on_broken: Told of a row whose logits are not finite, which ends there; unset, that is an error.

    Returns:
        The new token ids of each row, without the end-of-sequence token.

    Raises:
        ModelError: A prompt fills the window, or the logits are not finite.
    """
    longest = max(map(len, prompts))
    room = min(max_new_tokens, policy.window - longest)
    if room < 1:
        raise ModelError(
            f"a prompt of {longest} tokens leaves no room in the model's window of {policy.window}; shorten or split "
            "the passage (seal adapt: a lower --passage_chars), or use a model with a longer window"
        )
    way = way or answering_way(policy.model, longest=longest + room)
    with planless_attention(policy.device):
        batch = way.start(policy.model, prompts, shared=shared)
        return _continue(
            batch, room, choose, on_keep, on_broken or _refuse(policy, prompts), stops=set(stop_tokens(policy))
        )


def _continue(
    batch: Rows,
    room: int,
    choose: Choose,
    on_keep: Callable[[Sequence[int]], None],
    on_broken: Callable[[int], None],
    *,
    stops: Set[int],
) -> list[list[int]]:
    """Token after token, at most `room`; the new token ids of each row."""
    texts: list[list[int]] = [[] for _ in batch.rows]
    for _ in range(room):
        logits = batch.logits()
        tokens = choose(logits, batch.rows, texts)
        for place, token in enumerate(read(torch.where(rows_finite(logits), tokens, _BROKEN))):
            row = batch.rows[place]
            if batch.going[place] and token == _BROKEN:
                on_broken(row)
                batch.going[place] = False
            elif batch.going[place] and token not in stops:
                texts[row].append(token)
            else:
                batch.going[place] = False
        if not any(batch.going):
            break
        batch.append(tokens)
        if batch.may_leave and batch.going.count(False) > _GONE * len(batch.going):
            on_keep(batch.shrink())
    return texts


def read(tokens: torch.Tensor) -> list[int]:
    """The one place where a decoding step waits for the device."""
    return tokens.tolist()


def _refuse(policy: Policy, prompts: Sequence[Sequence[int]]) -> Callable[[int], None]:
    def refuse(row: int) -> None:
        name = getattr(policy.model.config, "_name_or_path", "") or type(policy.model).__name__
        raise ModelError(
            f"model.source.name={name}: expected finite logits after a prompt of {len(prompts[row])} tokens, got nan "
            "or infinity: the policy's weights are damaged or overflow; try model.source.dtype=float32, other weights, "
            "or lower learning rates where they were trained"
        )

    return refuse


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
    on_done: OnDone = quiet,
    adapters: TrainedBank | None = None,
    jobs: Sequence[int | None] = (),
    on_broken: Callable[[int], None] | None = None,
) -> list[tuple[str, int]]:
    """Continue any number of prompts; the text of each, and how many tokens it took.

    Fewer are continued together where the memory does not suffice.

    Args:
        policy: The policy, in evaluation mode.
        prompts: Token ids, one list a row.
        size: Rows generated together.
        max_new_tokens: New tokens a row, at most.
        choose: How the rows of a batch, by their numbers, pick their tokens.
        on_done: Told about finished rows.
        adapters: The adapters to continue with; without them the policy does it alone.
        jobs: The adapter of each prompt (None: none).
        on_broken: Told the number of a prompt whose adapter makes logits that are not finite, maybe twice. If it is
            unset, or if the policy's own logits are not finite, that is an error.

    Raises:
        ModelError: A prompt fills the window, the model cannot be run, or its logits are not finite.
        NoMemoryError: Not even one prompt fits.
    """
    longest = max(map(len, prompts), default=0) + max_new_tokens
    way = answering_way(policy.model, adapters.layers if adapters else (), longest=longest)
    writer = _Writer(policy, prompts, max_new_tokens, choose, adapters, jobs, on_broken, way)
    by_length = adapters is None  # or neighbours of one adapter stay together
    groups = batches(
        policy, prompts, size=size, max_new_tokens=max_new_tokens, by_length=by_length, way=way, owners=jobs
    )
    advice = "lower the number of tokens that may be written, or use a smaller model"
    written: dict[int, tuple[str, int]] = {}
    for rows, texts in in_parts(groups, writer.write, device=policy.device, doing="writing texts", advice=advice):
        for row, tokens in zip(rows, texts, strict=True):
            written[row] = policy.decode(tokens, prompt=prompts[row]), len(tokens)
        on_done(len(rows))
    return [written[row] for row in range(len(prompts))]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Continues batches of the prompts of `generate_all`."""

    policy: Policy
    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    choose: Callable[[Sequence[int]], Choose]
    adapters: TrainedBank | None
    jobs: Sequence[int | None]
    on_broken: Callable[[int], None] | None
    way: AnsweringWay

    def write(self, rows: Sequence[int]) -> list[list[int]]:
        """Continue the prompts of these numbers together."""
        places: list[int] = []
        with self.adapters.answering([self.jobs[row] for row in rows]) if self.adapters else nullcontext() as working:
            texts = generate(
                self.policy,
                [self.prompts[row] for row in rows],
                max_new_tokens=self.max_new_tokens,
                choose=self.choose(rows),
                on_keep=working.keep if working else lambda rows: None,
                way=self.way,
                shared=self.adapters is None,
                on_broken=places.append if self.adapters and self.on_broken else None,
            )
        broken = [rows[place] for place in places]
        if broken and len({self.jobs[row] for row in rows}) > 1:  # once more by adapter: what is broken may have spread
            return self._write_apart(rows)
        for row in broken:
            assert self.on_broken is not None
            (_refuse(self.policy, self.prompts) if self.jobs[row] is None else self.on_broken)(row)
        return texts

    def _write_apart(self, rows: Sequence[int]) -> list[list[int]]:
        by_job = {job: [row for row in rows if self.jobs[row] == job] for job in {self.jobs[row]: None for row in rows}}
        texts = {row: tokens for some in by_job.values() for row, tokens in zip(some, self.write(some), strict=True)}
        return [texts[row] for row in rows]


def is_cut(policy: Policy, prompt: Sequence[int], count: int, max_new_tokens: int) -> bool:
    """Whether a continuation of `count` tokens ended at a limit, not by itself: its end would have been one more."""
    return count >= min(max_new_tokens, policy.window - len(prompt))


def stop_tokens(policy: Policy) -> list[int]:
    """The token ids that end a text: the model's own, the tokenizer's, and what ends a turn of the chat template."""
    shipped = policy.model.generation_config.eos_token_id
    ids = shipped if isinstance(shipped, list) else [shipped]
    turn = policy.template.end if policy.template else None
    return sorted({token for token in (*ids, policy.tokenizer.eos_token_id, turn) if token is not None})
