"""Closed-book answers of adapted policies: the last step before grading (arXiv 2506.10943, section 3.1).

All adapters of a unit answer together: rows of one generation batch belong to different adapters. Where a server holds
the policy instead, see `sampling.server`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop import TrainedBank
from seal_lightning.policy import Policy
from seal_lightning.sampling.generation import batches, generate, is_cut
from seal_lightning.types import Prompt


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of one adapter, a job of the trained bank; None asks the policy without an adapter."""

    job: int | None
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was generated for each prompt, how many tokens that took together, and which texts end at the limit."""

    texts: tuple[str, ...]
    tokens: int
    cut: tuple[bool, ...] = ()


class Answerer(ABC):
    """Lets adapters answer."""

    @abstractmethod
    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Answers]:
        """Answer greedily, one `Answers` for each of `asked` in order.

        Args:
            policy: Frozen and in evaluation mode.
            asked: With jobs of `trained`, or all of them without.
            trained: The bank that holds the adapters.
            max_new_tokens: Longest answer.
            on_done: Told how many answers were given since the last call.
        """


class LocalAnswerer(Answerer):
    """Answers with the policy itself.

    Args:
        batch_size: Answers generated together.
    """

    def __init__(self, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise ConfigError(f"answer_batch must be at least 1, got {batch_size}")
        self.batch_size = batch_size

    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Answers]:
        owners = [number for number, one in enumerate(asked) for _ in one.prompts]
        prompts = [policy.encode(policy.format(prompt)) for one in asked for prompt in one.prompts]
        texts, counts, cut = [""] * len(prompts), [0] * len(asked), [False] * len(prompts)
        for rows in batches(
            policy, prompts, size=self.batch_size, max_new_tokens=max_new_tokens, by_length=trained is None
        ):
            jobs = [asked[owners[row]].job for row in rows]
            new = _generate(policy, [prompts[row] for row in rows], jobs, trained, max_new_tokens)
            for row, tokens in zip(rows, new, strict=True):
                texts[row] = policy.tokenizer.decode(tokens, skip_special_tokens=True)
                counts[owners[row]] += len(tokens)
                cut[row] = is_cut(policy, prompts[row], len(tokens), max_new_tokens)
            on_done(len(rows))
        given, ends = iter(texts), iter(cut)
        return [
            Answers(tuple(next(given) for _ in one.prompts), count, tuple(next(ends) for _ in one.prompts))
            for one, count in zip(asked, counts, strict=True)
        ]


def _generate(
    policy: Policy,
    prompts: list[list[int]],
    jobs: Sequence[int | None],
    trained: TrainedBank | None,
    max_new_tokens: int,
) -> list[list[int]]:
    with trained.answering(jobs) if trained else nullcontext() as adapters:
        if adapters is None:
            return generate(policy, prompts, max_new_tokens=max_new_tokens)
        return generate(policy, prompts, max_new_tokens=max_new_tokens, on_keep=adapters.keep)
