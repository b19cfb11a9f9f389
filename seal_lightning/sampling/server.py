"""The policy held by a server (vLLM, SGLang) that loads adapters while it runs: it samples edits and answers queries.

The server keeps the base model for the whole run. What M-steps have taught the policy, and what an inner loop has
trained on top, goes to it as one LoRA whose rank is the sum of theirs, so the server has to allow that rank. Adapters
still train here. A server's numerics are its own: answers can differ from the local ones in near ties, and a sampled
edit is reproducible only as far as the server keeps to seeds.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from uuid import uuid4

from seal_lightning.adapters import LoRA, bank_lora, save_lora, stack
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, EndpointError, SealError
from seal_lightning.inner_loop import TrainedBank
from seal_lightning.policy import Policy
from seal_lightning.sampling.answering import Answerer, Answers, Asked
from seal_lightning.sampling.sampler import Sample, Sampler, SampleRequest, check_sampling, written_sample
from seal_lightning.types import Written

log = logging.getLogger(__name__)

Kind = Literal["vllm", "sglang"]

# Where each server is told which adapter to load, below its address.
LOAD: Mapping[Kind, str] = MappingProxyType({"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"})
UNLOAD: Mapping[Kind, str] = MappingProxyType({"vllm": "/v1/unload_lora_adapter", "sglang": "/unload_lora_adapter"})


class AdapterServer:
    """A server that holds the base model and loads adapters by name.

    Args:
        endpoint: The server; its `model` is the base model as the server calls it.
        kind: vllm (started with --enable-lora, --max-lora-rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True) or sglang.
        folder: Where adapters are put for it, a folder that the server sees under the same path; null takes a
            temporary one, for a server on this machine.
        max_loaded: Adapters that it holds at one time.
    """

    def __init__(
        self, endpoint: Endpoint, *, kind: Kind = "vllm", folder: str | None = None, max_loaded: int = 16
    ) -> None:
        if kind not in LOAD:
            raise ConfigError(f"kind must be one of {', '.join(LOAD)}, got {kind!r}: choose one")
        if max_loaded < 1:
            raise ConfigError(f"max_loaded must be at least 1, got {max_loaded}: try 16")
        self.endpoint = endpoint
        self._kind: Kind = kind  # these are private: they change nothing in the answers
        self._folder = folder
        self._max_loaded = max_loaded

    @property
    def at_once(self) -> int:
        """Adapters that it holds at one time."""
        return self._max_loaded

    @contextmanager
    def holding(self, policy: Policy, loras: Sequence[LoRA | None]) -> Iterator[list[str]]:
        """Load adapters until the block is left; yields the name of each, for None that of the base model.

        Every name is new, so that neither another process nor a run that was killed can have loaded it.
        """
        if self._folder is not None:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="seal-adapters-", dir=self._folder) as folder:
            names = [self.endpoint.model if lora is None else f"seal-{uuid4().hex}" for lora in loras]
            loaded: list[str] = []
            try:
                for name, lora in zip(names, loras, strict=True):
                    if lora is not None:
                        save_lora(lora, Path(folder) / name, model=policy.model)
                        self._load(name, Path(folder) / name)
                        loaded.append(name)
                yield names
            finally:
                self._unload(loaded)

    def _load(self, name: str, folder: Path) -> None:
        try:
            self.endpoint.command(LOAD[self._kind], {"lora_name": name, "lora_path": str(folder.resolve())})
        except EndpointError as error:
            if "already" not in str(error):  # an attempt of ours whose answer got lost
                raise

    def _unload(self, names: Sequence[str]) -> None:
        """Best done, but no reason to fail: a server drops what it has no room for."""
        for name in names:
            try:
                self.endpoint.command(UNLOAD[self._kind], {"lora_name": name})
            except SealError as error:
                log.warning("adapters stay loaded: %s", error)
                return

    def texts(self, policy: Policy) -> Endpoint:
        """The endpoint for formatted prompts: a chat template writes its special tokens itself.

        An adapter's name is new each time, so there is nothing to keep.
        """
        return self.endpoint.asking(kept=False, add_special_tokens=not policy.chat)


class ServerSampler(Sampler):
    """Samples self-edits from the policy on a server.

    Args:
        server: Where it is.
        temperature: 0 takes the most likely token; the paper uses 1.0 (knowledge) and 0.8 (ARC).
        top_p: Nucleus: the smallest set of tokens with this much probability.
        max_new_tokens: Longest self-edit in tokens.
    """

    def __init__(
        self, server: AdapterServer, *, temperature: float = 1.0, top_p: float = 0.95, max_new_tokens: int = 1024
    ) -> None:
        check_sampling(temperature=temperature, top_p=top_p)
        if max_new_tokens < 1:
            raise ConfigError(f"sampler.max_new_tokens must be at least 1, got {max_new_tokens}")
        self.server = server
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens

    def sample(
        self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: Callable[[int], None] = lambda count: None
    ) -> list[Sample]:
        with self.server.holding(policy, [policy.learned()]) as (name,):
            written = self.server.texts(policy).complete(
                [request.prompt for request in requests],
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seeds=[request.seed for request in requests],
                models=[name] * len(requests),
                may_be_empty=True,
                on_done=on_done,
            )
        return [
            written_sample(policy, request, one.text.strip(), one.usage, cut=one.cut)
            for request, one in zip(requests, written, strict=True)
        ]


class ServerAnswerer(Answerer):
    """Answers with adapters on a server.

    Args:
        server: Where the policy is.
    """

    def __init__(self, server: AdapterServer) -> None:
        self.server = server

    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Answers]:
        learned, answers = policy.learned(), []
        for start in range(0, len(asked), self.server.at_once):
            answers += self._answer(
                policy, asked[start : start + self.server.at_once], trained, learned, max_new_tokens, on_done
            )
        return answers

    def _answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        learned: LoRA | None,
        max_new_tokens: int,
        on_done: Callable[[int], None],
    ) -> list[Answers]:
        """As many as the server holds at a time; without jobs, what the policy has learned is loaded once."""
        loras = [_with_job(learned, trained, one.job) for one in asked] if trained else [learned]
        with self.server.holding(policy, loras) as names:
            named = names if trained else names * len(asked)
            written = self.server.texts(policy).complete(
                [policy.format(prompt) for one in asked for prompt in one.prompts],
                max_tokens=max_new_tokens,
                models=[name for name, one in zip(named, asked, strict=True) for _ in one.prompts],
                may_be_empty=True,
                on_done=on_done,
            )
        given = iter(written)
        return [_answers(policy, [next(given) for _ in one.prompts]) for one in asked]


def _with_job(learned: LoRA | None, trained: TrainedBank | None, job: int | None) -> LoRA | None:
    """What the policy has learned, and on top of it the adapter of a job."""
    parts = [learned] if learned else []
    if job is not None and trained is not None:
        parts.append(bank_lora(trained.bank, job))
    return stack(parts) if parts else None


def _answers(policy: Policy, written: Sequence[Written]) -> Answers:
    texts = tuple(one.text for one in written)
    return Answers(texts, sum(map(policy.count, texts)), tuple(one.cut for one in written))
