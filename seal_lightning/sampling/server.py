"""The policy held by a server (vLLM, SGLang) that loads adapters while it runs: it samples edits and answers queries.

The server keeps the base model for the whole run. What M-steps have taught the policy, and what an inner loop has
trained on top, goes to it as one LoRA whose rank is the sum of theirs, so the server has to allow that rank. Adapters
still train here. A server's numerics are its own: answers can differ from the local ones in near ties, and a sampled
edit is reproducible only as far as the server keeps to seeds.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from uuid import uuid4

import torch
from transformers import PreTrainedModel

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, EndpointError, ModelError, SealError, check_count
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.layers import linear_layers
from seal_lightning.models.lora import LoRA, stack
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.answering import Answerer, Answers, Asked
from seal_lightning.sampling.generation import OnDone, quiet, stop_tokens
from seal_lightning.sampling.loaded import Make, loaded_in_turn
from seal_lightning.sampling.sampler import Sample, Sampler, SampleRequest, check_sampling, written_sample
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.redaction import quoted
from seal_lightning.types import Written

log = logging.getLogger(__name__)

Kind = Literal["vllm", "sglang"]

# Where each server is told which adapter to load and unload, below its address.
ROOTS: Mapping[Kind, str] = MappingProxyType({"vllm": "/v1", "sglang": ""})

# How each is started so that it does, beside --enable-lora and --max-lora-rank.
START: Mapping[Kind, str] = MappingProxyType(
    {"vllm": "vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "sglang": "SGLang"}
)
FINAL = (500,)  # what vLLM says of an adapter that it cannot take; it will not take it the next time either
# Sampling options by which servers do nothing to the model's distribution but what the request says.
AS_HERE: Mapping[str, float] = MappingProxyType({"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0})


class AdapterServer(Remembers):
    """A server that holds the base model and loads adapters by name.

    Args:
        endpoint: The server; its `model` is the base model as the server calls it.
        kind: vllm (started with --enable-lora, --max-lora-rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True) or sglang.
        folder: Where adapters are put for it, a folder that the server sees under the same path; null takes a
            temporary one, for a server on this machine.
        max_loaded: Adapters that are sent to it at one time (vLLM computes with `--max-loras` of them at once).
    """

    def __init__(
        self, endpoint: Endpoint, *, kind: Kind = "vllm", folder: str | None = None, max_loaded: int = 16
    ) -> None:
        if kind not in ROOTS:
            raise ConfigError(f"kind must be one of {', '.join(ROOTS)}, got {kind!r}: choose one")
        self.endpoint = endpoint
        self._kind: Kind = kind  # these are private: they change nothing in the answers
        self._folder = folder
        self._max_loaded = check_count("max_loaded", max_loaded, advice="try 16")
        self._window: int | None = None

    def check(
        self, policy: Policy, *, rank: int, layers: Collection[str], on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """Fail before any work where the server does not hold the model, or does not load such adapters.

        Args:
            policy: What it should hold.
            rank: Rank of the largest adapter that it will be sent; 0 if it will be sent none.
            layers: Layers that the adapters change, by their names in the plain model.
            on_wait: Called about twice a second, and may raise to end it.

        Raises:
            ConfigError: Says what the server lacks, and how to start it.
        """
        held = [str(row["id"]) for row in self.endpoint.models(on_wait=on_wait)]
        if self.endpoint.model not in held:
            names = quoted(", ".join(held)) or "none"
            raise ConfigError(f"{self.endpoint.where}: the server holds {names}; set endpoint.model to that")
        if rank:
            with self.holding(policy, [_changing_nothing(policy.model, rank, layers)], on_wait=on_wait):
                pass

    def window(self, policy: Policy) -> int:
        """The most tokens of a prompt with its continuation: the policy's window, or a shorter one of the server."""
        if self._window is None:
            held = {row["id"]: row.get("max_model_len") for row in self.endpoint.models()}
            told = held.get(self.endpoint.model)
            self._window = told if isinstance(told, int) and told > 0 else policy.window
        return min(self._window, policy.window)

    def continued(
        self,
        policy: Policy,
        texts: Sequence[str],
        *,
        max_new_tokens: int,
        models: Sequence[str],
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        on_done: OnDone = quiet,
    ) -> list[Written]:
        """What the server writes after formatted prompts, as `sampling.generation` would: the same tokens go in, the
        same tokens stop a text, and no setting that the model ships applies (repetition penalties, `top_k`).

        Raises:
            ModelError: A prompt fills the window.
            SealError: As `Endpoint.complete`.
        """
        prompts = [policy.encode(text) for text in texts]
        window, longest = self.window(policy), max(map(len, prompts), default=0)
        if longest >= window:
            raise ModelError(
                f"a prompt of {longest} tokens leaves no room in the window of {window} of {self.endpoint.where}; "
                "shorten or split the passage, or start the server with a larger one (--max-model-len)"
            )
        # an adapter's name is new each time, so there is nothing to keep
        request = {"stop_token_ids": stop_tokens(policy), **AS_HERE, **(self.endpoint.request or {})}
        if policy.encoder.keeps_markers:  # the special tokens between which thoughts stand
            request["skip_special_tokens"] = False
        endpoint = self.endpoint.asking(kept=False, **request)
        limits = [min(max_new_tokens, window - len(prompt)) for prompt in prompts]
        return endpoint.complete(
            prompts,
            max_tokens=limits,
            temperature=temperature,
            top_p=top_p,
            seeds=seeds,
            models=models,
            may_be_empty=True,
            on_done=on_done,
        )

    @property
    def at_once(self) -> int:
        """Adapters that it holds at one time."""
        return self._max_loaded

    @contextmanager
    def holding(
        self, policy: Policy, loras: Sequence[LoRA | None], *, on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[list[str]]:
        """Load adapters until the block is left; yields the name of each, for None that of the base model.

        Meanwhile `on_wait` is called about twice a second, and may raise to end it.
        """
        made = [partial(_itself, lora) for lora in loras]
        with self.holding_in_turn(policy, [made], on_wait=on_wait) as names:
            yield next(names)

    def holding_in_turn(
        self, policy: Policy, groups: Sequence[Sequence[Make]], *, on_wait: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Iterator[list[str]]]:
        """As `holding` for one group of adapters after the other; where two have room, one is loaded during another.

        Args:
            policy: What they are for.
            groups: What makes the adapters of each, in other threads.
            on_wait: As in `holding`.
        """
        return loaded_in_turn(
            groups,
            loader=self,
            folder=Path(self._folder or tempfile.gettempdir()) / f"seal-adapters-{uuid4().hex}",
            base=self.endpoint.model,
            model=policy.model,
            ahead=2 * max(map(len, groups), default=0) <= self._max_loaded,
            on_wait=on_wait,
        )

    def load(self, name: str, folder: Path, rank: int, on_wait: Callable[[], None]) -> None:
        """Have the server load an adapter. Raises `ConfigError` where it cannot, with how to start it."""
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        try:
            self.endpoint.command(f"{ROOTS[self._kind]}/load_lora_adapter", body, final=FINAL, on_wait=on_wait)
        except (ConfigError, EndpointError) as error:
            if "already" in str(error):  # an attempt of ours whose answer got lost
                return
            refusal, _, _ = str(error).rpartition("; ")  # without advice, which is about texts
            if not re.search(r"refused with status (400|404|500)", refusal):
                raise
            raise ConfigError(
                f"{refusal}; it has to load adapters of rank {rank} while it runs: start {START[self._kind]}, "
                f"--enable-lora and --max-lora-rank {rank} or more"
            ) from error

    def unload(self, names: Sequence[str]) -> None:
        """Best done, but no reason to fail: a server drops what it has no room for."""
        for name in names:
            try:
                self.endpoint.command(f"{ROOTS[self._kind]}/unload_lora_adapter", {"lora_name": name})
            except SealError as error:
                log.warning("adapters stay loaded: %s", error)
                return


def _changing_nothing(model: PreTrainedModel, rank: int, layers: Collection[str]) -> LoRA:
    """A LoRA of zeros on one layer of each kind: small, and refused where a real one would be."""
    kinds = {target.name.rpartition(".")[2]: target for target in linear_layers(model) if target.name in layers}
    state: dict[str, torch.Tensor] = {}
    for target in kinds.values():
        state[f"base_model.model.{target.name}.lora_A.weight"] = torch.zeros(rank, target.inputs)
        state[f"base_model.model.{target.name}.lora_B.weight"] = torch.zeros(target.outputs, rank)
    return LoRA(state, 1.0)


def received(policy: Policy, prompt: str, written: Written) -> Written:
    """What the policy wrote after a formatted prompt, with its text as `Policy.decode` gives it."""
    text = policy.encoder.without_special(written.text) if policy.encoder.keeps_markers else written.text
    return replace(written, text=policy.opened(prompt) + text)


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
        check_sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        self.server = server
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens

    def window(self, policy: Policy) -> int:
        return self.server.window(policy)

    def sample(self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: OnDone = quiet) -> list[Sample]:
        learned = _served(policy.learned(), policy.model.dtype)
        with self.server.holding(policy, [learned], on_wait=lambda: on_done(0)) as (name,):
            written = self.server.continued(
                policy,
                [request.prompt for request in requests],
                max_new_tokens=self.max_new_tokens,
                models=[name] * len(requests),
                temperature=self.temperature,
                top_p=self.top_p,
                seeds=[request.seed for request in requests],
                on_done=on_done,
            )
        texts = [received(policy, *pair) for pair in zip((r.prompt for r in requests), written, strict=True)]
        return [
            written_sample(policy, request, replace(text, text=text.text.strip()))
            for request, text in zip(requests, texts, strict=True)
        ]


class ServerAnswerer(Answerer):
    """Answers with adapters on a server.

    Args:
        server: Where the policy is.
    """

    def __init__(self, server: AdapterServer) -> None:
        self.server = server

    def window(self, policy: Policy) -> int:
        return self.server.window(policy)

    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: OnDone = quiet,
    ) -> list[Answers]:
        dtype = policy.model.dtype
        learned = _served(policy.learned(), dtype)
        step = max(1, self.server.at_once // 2)  # as many are loaded meanwhile
        parts = [asked[start : start + step] for start in range(0, len(asked), step)]
        groups: list[list[Make]] = [
            [partial(_with_job, learned, trained, asking.job, dtype) for asking in some] for some in parts
        ]
        if trained is None:  # what the policy has learned is loaded once
            parts, groups = [asked], [[partial(_itself, learned)]]
        answers: list[Answers] = []
        with self.server.holding_in_turn(policy, groups, on_wait=lambda: on_done(0)) as loaded:
            for some, names in zip(parts, loaded, strict=True):
                prompts = [policy.format(prompt) for asking in some for prompt in asking.prompts]
                named = names if trained else names * len(some)
                written = self.server.continued(
                    policy,
                    prompts,
                    max_new_tokens=max_new_tokens,
                    models=[name for name, asking in zip(named, some, strict=True) for _ in asking.prompts],
                    on_done=on_done,
                )
                given = iter(received(policy, prompt, text) for prompt, text in zip(prompts, written, strict=True))
                answers += [_answers(policy, [next(given) for _ in asking.prompts]) for asking in some]
        return answers


def _itself(lora: LoRA | None) -> LoRA | None:
    return lora


def _with_job(learned: LoRA | None, trained: TrainedBank | None, job: int | None, dtype: torch.dtype) -> LoRA | None:
    """What the policy has learned, and on top of it the adapter of a job, as a server gets them."""
    if job is None or trained is None:
        return learned
    own = bank_lora(trained.bank, job)
    return _served(stack([learned, own]) if learned else own, dtype)


def _served(lora: LoRA | None, dtype: torch.dtype) -> LoRA | None:
    """A LoRA as a server of that dtype uses it: one for a base in half precision is rounded there in any case."""
    return lora.to(dtype) if lora and dtype in (torch.bfloat16, torch.float16) else lora


def _answers(policy: Policy, written: Sequence[Written]) -> Answers:
    texts = tuple(answer.text for answer in written)
    return Answers(texts, sum(map(policy.count, texts)), tuple(answer.cut for answer in written))
