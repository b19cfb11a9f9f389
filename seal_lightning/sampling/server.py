"""The policy held by a server (vLLM, SGLang) that loads adapters while it runs: it samples edits and answers queries.

The server keeps the base model for the whole run. What M-steps have taught the policy, and what an inner loop has
trained on top, goes to it as one LoRA whose rank is the sum of theirs, so the server has to allow that rank. Adapters
still train here. A server's numerics are its own: answers can differ from the local ones in near ties, and a sampled
edit is reproducible only as far as the server keeps to seeds.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from seal_lightning.adapters import LoRA, bank_lora, save_lora, stack
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop import TrainedBank
from seal_lightning.policy import Policy
from seal_lightning.sampling.answering import Answerer, Answers, Asked
from seal_lightning.sampling.sampler import Sample, Sampler, SampleRequest

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
    """

    def __init__(self, endpoint: Endpoint, *, kind: Kind = "vllm", folder: str | None = None) -> None:
        if kind not in LOAD:
            raise ConfigError(f"kind must be one of {', '.join(LOAD)}, got {kind!r}: choose one")
        self.endpoint = endpoint
        self._kind: Kind = kind  # private: where adapters lie changes nothing in the answers
        self._folder = folder

    @contextmanager
    def holding(self, policy: Policy, loras: Sequence[LoRA | None]) -> Iterator[list[str]]:
        """Load adapters until the block is left; yields the name of each, for None that of the base model."""
        with ExitStack() as stack:
            root = Path(self._folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="seal-adapters-")))
            loaded: set[str] = set()
            names = []
            for lora in loras:
                name = self.endpoint.model if lora is None else _name(lora)
                names.append(name)
                if lora is not None and name not in loaded:
                    loaded.add(name)
                    self._load(policy, lora, name, root / name)
                    stack.callback(self.endpoint.command, UNLOAD[self._kind], {"lora_name": name})
            yield names

    def _load(self, policy: Policy, lora: LoRA, name: str, folder: Path) -> None:
        transposed = any(type(module).__name__ == "Conv1D" for module in policy.model.modules())
        save_lora(lora, folder, base_model_name=policy.model.config._name_or_path, transposed=transposed)
        self.endpoint.command(LOAD[self._kind], {"lora_name": name, "lora_path": str(folder.resolve())})

    def texts(self, policy: Policy) -> Endpoint:
        """The endpoint for formatted prompts: a chat template writes its special tokens itself."""
        return self.endpoint.asking(add_special_tokens=not policy.chat)


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
        if temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
            raise ConfigError(
                "sampler.temperature must be 0 or more, top_p in (0, 1] and max_new_tokens at least 1, got "
                f"{temperature}, {top_p} and {max_new_tokens}"
            )
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
                seeds=[request.seed % 2**31 for request in requests],
                models=[name] * len(requests),
                on_done=on_done,
            )
        return [
            Sample(
                one.text.strip(),
                len(policy.encode(request.prompt)),
                len(policy.tokenizer(one.text, add_special_tokens=False)["input_ids"]),
                one.usage,
            )
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
        learned = policy.learned()
        loras = [_with_job(learned, trained, one.job) for one in asked]
        with self.server.holding(policy, loras) as names:
            written = self.server.texts(policy).complete(
                [policy.format(prompt) for one in asked for prompt in one.prompts],
                max_tokens=max_new_tokens,
                models=[name for name, one in zip(names, asked, strict=True) for _ in one.prompts],
                on_done=on_done,
            )
        given = iter(written)
        answers = []
        for one in asked:
            texts = tuple(next(given).text for _ in one.prompts)
            tokens = sum(len(policy.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
            answers.append(Answers(texts, tokens))
        return answers


def _with_job(learned: LoRA | None, trained: TrainedBank | None, job: int | None) -> LoRA | None:
    """What the policy has learned, and on top of it the adapter of a job."""
    parts = [learned] if learned else []
    if job is not None and trained is not None:
        parts.append(bank_lora(trained.bank, job))
    return stack(parts) if parts else None


def _name(lora: LoRA) -> str:
    """Names an adapter by its content: replies are kept on disk by the model's name."""
    digest = hashlib.blake2b(repr(lora.scale).encode(), digest_size=12)
    for name in sorted(lora.state):
        digest.update(name.encode())
        digest.update(lora.state[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"seal-{digest.hexdigest()}"
