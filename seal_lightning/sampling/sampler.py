"""Where self-edits come from: the local policy, or texts written beforehand.

A sampler turns requests into samples; a user's own is named by `class_path`. What is drawn for an edit depends on its
seed and on the logits of its row, not on what else is in the batch (`sampling.drawing`). On a CPU, neither do a row's
logits, but for their last bits. On a GPU the size of the batch decides which kernels run: logits in bfloat16 move by
about 1e-2 with it, and now and then another token follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.constrained import SchemaMasks, load_llguidance
from seal_lightning.sampling.drawing import drawing
from seal_lightning.sampling.generation import Choose, OnDone, generate_all, is_cut, most_likely, quiet
from seal_lightning.sampling.sizes import rows_together
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context, Prompt, Usage, Written

ROWS_ON_CPU = 32


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One self-edit to write.

    Attributes:
        prompt: As the policy reads it, which the M-step trains it on too.
        context: What the edit is about.
        index: Place of the edit among those of its context.
        seed: Seed of the edit.
        message: The prompt before its chat template, for a model that is not the policy.
        schema: The JSON schema of the edit, where it is JSON.
    """

    prompt: str
    context: Context
    index: int
    seed: int
    message: Prompt = Prompt("")
    schema: Mapping[str, object] | None = field(default=None, hash=False)  # requests are keys of dicts


@dataclass(frozen=True, slots=True)
class Sample:
    """What was written, how many tokens the prompt and the text had, and what an endpoint charged for it.

    `cut` says that the text ends where the limit of tokens is.
    """

    text: str
    prompt_tokens: int
    tokens: int
    usage: Usage = Usage()
    cut: bool = False


class Sampler(Remembers, ABC):
    """Writes self-edits.

    Attributes:
        from_outside: Whether another model wrote them; validation and test then take the policy's own.
    """

    from_outside: ClassVar[bool] = False

    def window(self, policy: Policy) -> int:
        """The most tokens of a prompt with its self-edit."""
        return policy.window

    @abstractmethod
    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        """One sample a request, in order; `on_done` is told how many were finished since the last call."""


def written_sample(policy: Policy, request: SampleRequest, written: Written) -> Sample:
    """A text from elsewhere as a sample, with its tokens as counted by the policy, which is to learn it."""
    prompt_tokens, tokens = len(policy.encode(request.prompt)), policy.count(written.text)
    return Sample(written.text, prompt_tokens, tokens, written.usage, written.cut)


def check_sampling(*, temperature: float, top_p: float | None, max_new_tokens: int) -> None:
    """Raises `ConfigError` where nothing can be sampled with these options of a sampler."""
    if temperature < 0:
        raise ConfigError(f"sampler.temperature must be 0 or more, got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"sampler.top_p must be in (0, 1], got {top_p}")
    check_count("sampler.max_new_tokens", max_new_tokens)


def needed_schema(request: SampleRequest) -> Mapping[str, object]:
    """The schema that a constrained sampler keeps to. Raises `ConfigError` where the task has none."""
    if request.schema is None:
        raise ConfigError(
            "sampler.constrained needs a task whose self-edits are JSON, this one has no edit_schema: leave it off"
        )
    return request.schema


class LocalSampler(Sampler):
    """Samples from the policy itself.

    Args:
        temperature: 0 takes the most likely token; the paper uses 1.0 (knowledge) and 0.8 (ARC).
        top_p: Nucleus: the smallest set of tokens with this much probability.
        max_new_tokens: Longest self-edit in tokens.
        batch_size: Rows generated together; null takes 32 on a CPU, and on a GPU from 32 to 512, as many as its free
            memory takes. Halved if memory does not suffice.
        constrained: Choose only tokens that the task's `edit_schema` lets follow (needs the extra `constrained`). An
            edit is then JSON of that schema, unless `max_new_tokens` cuts it off.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_new_tokens: int = 1024,
        batch_size: int | None = None,
        constrained: bool = False,
    ) -> None:
        check_sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.batch_size = None if batch_size is None else check_count("sampler.batch_size", batch_size)
        self.constrained = constrained
        if constrained:
            load_llguidance()  # a missing library is known before anything is loaded

    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        prompts = [policy.encode(request.prompt) for request in requests]
        if self.constrained:  # what a schema describes is the reply itself, without a thought or a channel before it
            prompts = [[*prompt, *policy.reply_opening] for prompt in prompts]
        masks = SchemaMasks(policy) if self.constrained else None

        def choose(rows: Sequence[int]) -> Choose:
            freely = self._choose([requests[row].seed for row in rows])
            return masks.keep_to([needed_schema(requests[row]) for row in rows], freely) if masks else freely

        written = generate_all(
            policy,
            prompts,
            size=rows_together(
                policy, prompts, max_new_tokens=self.max_new_tokens, given=self.batch_size, on_cpu=ROWS_ON_CPU
            ),
            max_new_tokens=self.max_new_tokens,
            choose=choose,
            on_done=on_done,
        )
        return [
            Sample(text.strip(), len(prompt), count, cut=is_cut(policy, prompt, count, self.max_new_tokens))
            for prompt, (text, count) in zip(prompts, written, strict=True)
        ]

    def _choose(self, seeds: Sequence[int]) -> Choose:
        """How rows with these seeds pick their next token."""
        if self.temperature == 0:
            return most_likely
        return drawing(seeds, temperature=self.temperature, top_p=self.top_p)


class WrittenEdits(Sampler):
    """Takes the self-edits that the data carries (`edits` of a context); missing ones are empty."""

    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        texts = [r.context.edits[r.index] if r.index < len(r.context.edits) else "" for r in requests]
        on_done(len(requests))
        return [written_sample(policy, request, Written(text)) for request, text in zip(requests, texts, strict=True)]
