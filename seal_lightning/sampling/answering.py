"""Who answers: adapted policies closed-book (arXiv 2506.10943, section 3.1), and the policy that a grader asks.

All adapters of a unit answer together: rows of one generation batch belong to different adapters. Where a server holds
the policy instead, see `sampling.server`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from seal_lightning.errors import ModelError, check_count
from seal_lightning.inner_loop.isolation import AnsweringWay, answering_way
from seal_lightning.inner_loop.isolation.rows import last_logits
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.kernels import planless_attention
from seal_lightning.models.memory import in_parts
from seal_lightning.models.transfer import sent
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import Choose, OnDone, generate_all, is_cut, most_likely, quiet
from seal_lightning.sampling.sizes import rows_together
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Prompt, Written

ANSWERS_ON_CPU = 64
READ_ON_CPU = 32


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
        batch_size: Answers generated together; null takes 64 on a CPU, and on a GPU from 32 to 512, as many as its free
            memory takes. Halved if memory does not suffice.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        self.batch_size = None if batch_size is None else check_count("answer_batch", batch_size)
        self._hear: Callable[[int, Sequence[int]], None] | None = None

    def heard_by(self, hear: Callable[[int, Sequence[int]], None]) -> LocalAnswerer:
        """The same answerer, which tells before each token the number of its prompt and the tokens written so far."""
        other = copy.copy(self)
        other._hear = hear
        return other

    def _choosing(self, numbers: Sequence[int]) -> Choose:
        """Greedy choice for the prompts of these numbers, which is heard."""
        if (hear := self._hear) is None:
            return most_likely

        def choose(logits: torch.Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> torch.Tensor:
            for row in rows:
                hear(numbers[row], texts[row])
            return most_likely(logits, rows, texts)

        return choose

    def together(self, policy: Policy, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> int:
        """How many of the prompts, token ids, are answered together."""
        return rows_together(
            policy, prompts, max_new_tokens=max_new_tokens, given=self.batch_size, on_cpu=ANSWERS_ON_CPU
        )

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
            size=self.together(policy, prompts, max_new_tokens=max_new_tokens),
            max_new_tokens=max_new_tokens,
            choose=self._choosing,
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


@dataclass(frozen=True, slots=True)
class PolicyWriter:
    """A frozen policy as a `Chooser`; `batch_size` prompts are read together, or as many as suit the device."""

    policy: Policy
    batch_size: int | None = None

    def write(self, prompts: Sequence[Prompt], *, max_tokens: int) -> list[Written]:
        policy = self.policy
        ids = [policy.encode(policy.format(prompt)) for prompt in prompts]
        written = generate_all(policy, ids, size=self._together(ids, max_tokens), max_new_tokens=max_tokens)
        return [  # with thoughts: who asked cuts and counts them
            Written(text.strip(), cut=is_cut(policy, prompt, count, max_tokens))
            for prompt, (text, count) in zip(ids, written, strict=True)
        ]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """From the likelihood of an option's tokens after the prompt; their mean, so that short ones do not win."""
        policy = self.policy
        space = "" if policy.chat else " "
        ends = [policy.encoder.data(space + option) for option in options]
        asked = [[*policy.encode(policy.format(prompt)), *policy.reply_opening] for prompt in prompts]
        longest = max(map(len, asked), default=0) + max(map(len, ends))
        if longest > policy.window:
            raise ModelError(
                f"a question to the policy has {longest} tokens, more than the model's window of {policy.window}: take "
                "shorter passages or edits (sampler.max_new_tokens), or an endpoint"
            )
        # What is read before an option's last token; options of one token share it, so a prompt is read once.
        read = list(dict.fromkeys((*prompt, *end[:-1]) for prompt in asked for end in ends))
        words = sorted(set(chain.from_iterable(ends)))  # the others' likelihoods stay on the device
        scores: dict[tuple[int, ...], torch.Tensor] = {}
        parts = in_parts(
            self._groups(read),
            lambda numbers: self._log_probabilities([read[n] for n in numbers], last=max(map(len, ends)), words=words),
            device=policy.device,
            doing="asking the policy",
            advice="take shorter passages or edits, or a smaller model",
        )
        for numbers, likelihoods in parts:
            scores |= zip([read[number] for number in numbers], likelihoods, strict=True)
        places = [[words.index(token) for token in end] for end in ends]
        table = torch.tensor(
            [[_mean(scores[*prompt, *end[:-1]], at) for end, at in zip(ends, places, strict=True)] for prompt in asked]
        )
        return [tuple(row) for row in table.double().softmax(dim=1).tolist()]

    def _together(self, rows: Sequence[Sequence[int]], new: int = 0) -> int:
        return rows_together(self.policy, rows, max_new_tokens=new, given=self.batch_size, on_cpu=READ_ON_CPU)

    def _groups(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Which rows are read together: those of different lengths only where the model reads padded rows exactly."""
        way = answering_way(self.policy.model, longest=max(map(len, rows)))
        together = way if way.rows == "padded" else AnsweringWay("equal")
        size = self._together(rows)
        for group in together.groups(rows, range(len(rows)), [None] * len(rows)):
            yield from (group[start : start + size] for start in range(0, len(group), size))

    @torch.no_grad()
    def _log_probabilities(self, rows: Sequence[Sequence[int]], *, last: int, words: Sequence[int]) -> torch.Tensor:
        """Of those tokens after each of the `last` positions of every row, (b, last, words)."""
        device = self.policy.device
        with planless_attention(device):
            likelihoods = last_logits(self.policy.model, rows, last=last).float().log_softmax(dim=-1)
        return likelihoods.index_select(-1, sent(torch.tensor(words), device)).cpu()


def _mean(scores: torch.Tensor, end: Sequence[int]) -> float:
    """Mean log-probability of an option's tokens, given by their places among the words of `scores`."""
    places = range(len(scores) - len(end), len(scores))
    return float(sum(scores[place, token] for place, token in zip(places, end, strict=True)) / len(end))
