"""Closed-book answers of adapted policies: the last step before grading (arXiv 2506.10943, section 3.1).

All adapters of a unit answer together: rows of one generation batch belong to different adapters. Where a server holds
the policy instead, see `sampling.server`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import OnDone, generate_all, is_cut, quiet
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Prompt


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of one adapter, a job of the trained bank; None asks the policy without an adapter."""

    job: int | None
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was generated for each prompt, how many tokens that took together, and which texts end at the limit.

    `finite` is off where the adapter's logits were not finite, so that the texts mean nothing.
    """

    texts: tuple[str, ...]
    tokens: int
    cut: tuple[bool, ...] = ()
    finite: bool = True


class Answerer(Remembers, ABC):
    """Lets adapters answer."""

    def window(self, policy: Policy) -> int:
        """The most tokens of a prompt with its answer."""
        return policy.window

    @abstractmethod
    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: OnDone = quiet,
    ) -> list[Answers]:
        """Answer greedily, one `Answers` for each of `asked` in order.

        Args:
            policy: The policy, frozen and in evaluation mode.
            asked: Prompts with jobs of `trained`, or all of them without.
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
        on_done: OnDone = quiet,
    ) -> list[Answers]:
        prompts = [policy.encode(policy.format(prompt)) for asking in asked for prompt in asking.prompts]
        jobs = [asking.job for asking in asked for _ in asking.prompts]
        broken: set[int] = set()
        written = generate_all(
            policy,
            prompts,
            size=self.batch_size,
            max_new_tokens=max_new_tokens,
            on_done=on_done,
            adapters=trained,
            jobs=jobs,
            on_broken=broken.add,
        )
        diverged = {jobs[row] for row in broken}
        given = iter(zip(prompts, written, strict=True))
        answers = []
        for asking in asked:
            some = [next(given) for _ in asking.prompts]
            texts, tokens = tuple(text for _, (text, _) in some), sum(count for _, (_, count) in some)
            cut = tuple(is_cut(policy, prompt, count, max_new_tokens) for prompt, (_, count) in some)
            answers.append(Answers(texts, tokens, cut, finite=asking.job not in diverged))
        return answers
