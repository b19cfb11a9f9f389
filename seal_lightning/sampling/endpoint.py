"""Self-edits written by an outside model behind an endpoint: the teacher.

In the paper GPT-4.1's edits rival two rounds of training (arXiv 2506.10943, section 4.2). The policy is adapted to them
and, in the M-step, learns to write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import OnDone, quiet
from seal_lightning.sampling.sampler import (
    Sample,
    Sampler,
    SampleRequest,
    check_sampling,
    needed_schema,
    written_sample,
)


class EndpointSampler(Sampler):
    """Asks an endpoint for the self-edits.

    Args:
        endpoint: The model that writes them.
        temperature: Temperature of its sampling; the edits of a context differ by their seeds.
        top_p: Nucleus of its sampling; null leaves it to the endpoint.
        max_new_tokens: Longest self-edit in the endpoint's tokens.
        batch: Submit all edits of a unit as one job of the endpoint's batch API, at a lower price; a run that is
            stopped meanwhile picks the job up when it is resumed. Take large units (`data.contexts_per_unit`).
        poll_seconds: How often to ask whether the job is done.
        constrained: Send the task's `edit_schema` as the `response_format`, to endpoints that know structured output.
    """

    from_outside = True

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        temperature: float = 1.0,
        top_p: float | None = None,
        max_new_tokens: int = 2048,
        batch: bool = False,
        poll_seconds: float = 30.0,
        constrained: bool = False,
    ) -> None:
        check_sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        if poll_seconds <= 0:
            raise ConfigError(f"sampler.poll_seconds must be above 0, got {poll_seconds}")
        self.endpoint = endpoint
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self._batch = batch  # private: how the texts are fetched changes nothing in them
        self._poll_seconds = poll_seconds
        self.constrained = constrained

    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        prompts = [request.message for request in requests]
        options = {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seeds": [request.seed for request in requests],
            "on_done": on_done,
        }
        endpoint = self.endpoint
        if self.constrained and requests:  # of one task, which has one schema
            schema = {"name": "self_edit", "strict": True, "schema": dict(needed_schema(requests[0]))}
            endpoint = endpoint.asking(response_format={"type": "json_schema", "json_schema": schema})
        texts = endpoint.write(prompts, **options, batch=self._batch, poll_seconds=self._poll_seconds)
        stripped = [replace(written, text=written.text.strip()) for written in texts]
        return [written_sample(policy, request, text) for request, text in zip(requests, stripped, strict=True)]
