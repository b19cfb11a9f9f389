"""Self-edits from outside: written by the model behind an endpoint (the teacher), or taken from a file.

In the paper GPT-4.1's edits rival two rounds of training (arXiv 2506.10943, section 4.2). The policy is adapted to them
as if it had sampled them and, in the M-step, learns to write them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seal_lightning.data.base import check_path, context_id
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.rows import Row, read_rows
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
from seal_lightning.text.escaping import sound
from seal_lightning.types import Written


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


MARK = "Passage: "  # before the passage in the prompts of the package


class ImportedEdits(Sampler):
    """Takes self-edits from a JSON or JSON Lines file, and the first ones of each context first.

    A row has one edit (`text`), as `seal predict` writes them, or several (`edits`, or `completions` as in the SEAL
    authors' files and published runs), and says whose they are: by `context_id`, or by `title` with `passage` (or
    `context`). A row with a `prompt` of the package is held against the passage, since an id may be a row's number.

    Args:
        path: The file.
    """

    from_outside = True

    def __init__(self, path: str) -> None:
        self._path = check_path("path", path)  # private: what is in it counts
        self._edits: dict[str, list[str]] = {}
        self._prompts: dict[str, str] = {}
        for row in read_rows(Path(path).expanduser()):
            for edited in row.rows("articles") if "articles" in row.values else [row]:  # a published run's contexts
                owner = _owner(edited)
                self._edits.setdefault(owner, []).extend(sound(text)[0] for text in _texts(edited))
                self._prompts.setdefault(owner, _prompt(edited))
        content = json.dumps(self._edits, sort_keys=True).encode()
        self.digest = hashlib.blake2b(content, digest_size=8).hexdigest()  # the journal's stamp holds public attributes

    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        """Raises `DataError` where the file has too few edits for a context, or those of another one with its id."""
        samples = []
        for request in requests:
            samples.append(written_sample(policy, request, Written(self._edit(request))))
            on_done(1)
        return samples

    def _edit(self, request: SampleRequest) -> str:
        context = request.context
        edits = self._edits.get(context.id) or self._edits.get(context_id(context.title, context.passage), [])
        if request.index >= len(edits):
            raise DataError(
                f"{self._path}: expected {request.index + 1} or more edits of {context.id!r}, got {len(edits)}: "
                "add them, ask for fewer (e_step.edits, evaluation.edits), or leave the context out"
            )
        prompt = self._prompts.get(context.id, "")
        if MARK in prompt and " ".join(context.passage.split()) not in " ".join(prompt.split()):
            raise DataError(
                f"{self._path}: expected edits of the passage {context.id!r}, got those of another with that id (it is "
                "not in their prompt): name the edits of these data, or give the contexts of both ids of their own"
            )
        return edits[request.index]


def _prompt(row: Row) -> str:
    """What the edit was asked with; "" where the row does not say."""
    prompt = row.values.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _owner(row: Row) -> str:
    if row.values.get("context_id") is not None:
        return row.text("context_id")
    return context_id(row.title(), row.text("passage" if "passage" in row.values else "context"))


def _texts(row: Row) -> Sequence[str]:
    """An edit may be empty: a model wrote nothing, which is counted like any edit that cannot be used."""
    if "text" in row.values:
        text = row.values["text"]
        return [text] if isinstance(text, str) and not text.strip() else [row.text("text")]
    for field in ("edits", "completions"):
        if field in row.values:
            are_objects = any(isinstance(item, dict) for item in row.list(field)[:1])  # as in the authors' run files
            return [edit.text("text") for edit in row.rows(field)] if are_objects else row.texts(field)
    raise row.error("text", expected="a self-edit", got="nothing", advice="give text, edits or completions")
