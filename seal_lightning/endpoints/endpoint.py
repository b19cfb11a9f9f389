"""One client for models behind any OpenAI-compatible endpoint: hosted, vLLM, SGLang, `transformers serve`.

Requests are answered from disk where they were answered before, each distinct one is asked once, and the server's token
counts are reported with every text. Streaming, tools and images are left out: SEAL asks for texts.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from seal_lightning.endpoints.address import OPENAI, OPENAI_KEY, Address
from seal_lightning.endpoints.asking import Patience
from seal_lightning.endpoints.cache import DEFAULT, Cache, cache_folder
from seal_lightning.endpoints.calls import Caller
from seal_lightning.endpoints.ledger import Ledger
from seal_lightning.endpoints.options import beside_body, check_options, check_request, host_of, keyless
from seal_lightning.endpoints.prices import find_price
from seal_lightning.endpoints.wire import CHAT, TEXT, Request, make_request, messages, parsed
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.files.extras import install
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.escaping import sound
from seal_lightning.types import Json, JsonObject, Prompt, Written


class Endpoint(Remembers):
    """A model behind an OpenAI-compatible endpoint; its key is in the environment and nowhere else.

    Args:
        model: The model's name, as the server calls it.
        base_url: Address up to and including `/v1`; OpenAI's own where unset.
        api_key_env: The environment variable that holds the key. If it is not given, OPENAI_API_KEY goes to OpenAI and
            no key to any other host.
        concurrency: Most requests under way at once.
        timeout: Seconds for one attempt, from its first byte to the last one of the reply. A server that does nothing
            for so long, or sends a byte now and then, is asked again.
        retries: Attempts after the first, for rate limits, server errors, time-outs and garbage.
        request: Options for the body of every request, over those set here; null leaves one out. For example
            `{reasoning_effort: low}`, or `{temperature: null}` for a model that knows none. Under `extra_headers`
            and `extra_query` a value `env:NAME` is what the variable NAME holds when a request is sent.
        cache: Folder for replies, so that no request is paid for twice; null keeps none.
        prices: A YAML file such as configs/prices.yaml, or its content: dollars per million tokens by model.
        max_reply_mb: Largest reply in megabytes, unpacked; of a batch job's results, for each request.

    Attributes:
        host: Who answers, whatever the port; this machine is `local`. Answers depend on it, `model` and `request`.

    Raises:
        ConfigError: An option has a value that cannot work or holds a secret, or the key is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 300.0,
        retries: int = 8,
        request: dict[str, Any] | None = None,
        cache: str | None = DEFAULT,
        prices: str | dict[str, Any] | None = None,
        max_reply_mb: float = 8.0,
    ) -> None:
        check_options(model, base_url, api_key_env, timeout, max_reply_mb)
        check_count("endpoint.concurrency", concurrency)
        check_count("endpoint.retries", retries, least=0)
        variable = api_key_env or OPENAI_KEY
        keyless({"base_url": base_url, "request": request}, os.environ.get(variable, ""), variable)
        check_request(request)
        if any(find_spec(name) is None for name in ("openai", "httpx2", "tenacity")):
            raise ConfigError(f"an endpoint needs packages that are not installed: {install('endpoint')}")
        self.model = model
        self.host = host_of(base_url or OPENAI)
        self.request = request
        # Nothing else decides an answer, so it has to stay out of a journal's stamp, which takes public attributes.
        self._address = Address(model, base_url, api_key_env, timeout, int(max_reply_mb * 1e6), request)
        self._concurrency = concurrency
        self._patience = Patience(retries)
        self._cache = cache
        self._price = find_price(prices, model)
        self._address.key()
        beside_body(request)
        self._open_cache().foresee()

    @property
    def base_url(self) -> str | None:
        """The address as it was given."""
        return self._address.base_url

    @property
    def where(self) -> str:
        """The model and its endpoint, for messages."""
        return self._address.where

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        accept: Callable[[str], bool] | None = None,
        may_be_empty: bool = False,
        on_done: Callable[[int], None] = lambda count: None,
        batch: bool = False,
        poll_seconds: float = 30.0,
    ) -> list[Written]:
        """Chat completions, in order.

        Args:
            prompts: Sent as system and user message, without their lead.
            max_tokens: Longest reply, thinking included.
            temperature: Randomness of the replies; 0 takes the most likely token.
            top_p: Share of the most likely tokens to draw from; the server's own where unset.
            seeds: One for each prompt. Without them, equal prompts get one reply.
            accept: Replies for which it returns False are returned, but not kept on disk. Other threads call it.
            may_be_empty: Whether to believe an empty answer at once; otherwise the model is asked three times.
            on_done: Told how many were answered since the last call; while waiting also 0, about once a second. It may
                raise to end the call; answers already received are kept, and a batch job goes on and is found again.
            batch: Whether to ask in one job of the OpenAI Batch API, which is cheaper and takes up to a day. A run that
                was interrupted finds the job again when it asks for the same; requests that fail within the job are
                asked again singly.
            poll_seconds: How often to ask whether the job has ended.

        Raises:
            ConfigError: The endpoint refuses the key, or does not know the model; for a batch job, it has no batch
                routes, or `cache` is null, so that the job cannot be kept.
            EndpointError: The endpoint refuses a request, or does not answer one after all retries; or the job failed.
        """
        if batch and self._cache is None:
            raise ConfigError("endpoint.cache=null: batch mode keeps its job there; name a folder, or leave it off")
        requests = self._requests(CHAT, self._bodies(prompts, max_tokens), temperature, top_p, seeds)
        ledger = Ledger(requests, self._open_cache(), self._price, accept, may_be_empty, on_done)
        return self._written(ledger, poll_seconds=poll_seconds if batch else None)

    def complete(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        max_tokens: int | Sequence[int],
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        models: Sequence[str] | None = None,
        accept: Callable[[str], bool] | None = None,
        may_be_empty: bool = False,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Written]:
        """Continuations of raw texts, in order; as `write`, without a chat template.

        Args:
            texts: What is continued; token ids where the server is not to tokenize (vLLM and SGLang take them).
            max_tokens: Longest continuation, of all texts or of each.
            models: One for each text, where not all are for this endpoint's model: adapters that the server has loaded.
                A name must always mean the same adapter, since replies are kept on disk by name.
        """
        names = [self.model] * len(texts) if models is None else models
        prompts: list[Json] = [sound(text)[0] if isinstance(text, str) else list[Json](text) for text in texts]
        limits = [max_tokens] * len(texts) if isinstance(max_tokens, int) else max_tokens
        bodies: list[JsonObject] = [
            {"model": name, "prompt": prompt, "max_tokens": limit}
            for name, prompt, limit in zip(names, prompts, limits, strict=True)
        ]
        requests = self._requests(TEXT, bodies, temperature, top_p, seeds)
        return self._written(Ledger(requests, self._open_cache(), self._price, accept, may_be_empty, on_done))

    def asking(self, *, kept: bool = True, **request: Json) -> Endpoint:
        """The same endpoint with further options in every request; its replies are not cached unless `kept`."""
        other = copy.copy(self)
        other.request = {**(self.request or {}), **request}
        other._address = replace(self._address, request=other.request)
        other._cache = self._cache if kept else None
        return other

    def command(
        self,
        path: str,
        body: Mapping[str, Json],
        *,
        final: Collection[int] = (),
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Tell the server something outside the OpenAI API, such as which adapter to load; retried like a request.

        Args:
            path: Path below the server's address, such as `/v1/load_lora_adapter`.
            body: What is sent, as JSON.
            final: Statuses that count as an answer, where others would be tried again.
            on_wait: Called about twice a second while waiting; it may raise to end the call.

        Raises:
            ConfigError: As `write`.
            EndpointError: As `write`.
        """
        url = self._address.url.removesuffix("/v1") + path
        self._caller.ask(lambda client: client.post(url, body), on_wait, final=final)

    def models(self, *, on_wait: Callable[[], None] = lambda: None) -> list[JsonObject]:
        """What the server tells about each of its models, `id` among it; raises as `command`."""
        rows = self._caller.ask(lambda client: parsed(client.get("/models")), on_wait).get("data")
        listed = rows if isinstance(rows, list) else []
        return [row for row in listed if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def _bodies(self, prompts: Sequence[Prompt], max_tokens: int) -> list[JsonObject]:
        # OpenAI's newer models refuse max_tokens, older servers of others know nothing else
        limit = "max_completion_tokens" if self._address.is_openai else "max_tokens"
        return [{"model": self.model, "messages": messages(prompt), limit: max_tokens} for prompt in prompts]

    def _requests(
        self,
        route: str,
        bodies: Sequence[JsonObject],
        temperature: float,
        top_p: float | None,
        seeds: Sequence[int] | None,
    ) -> list[Request]:
        sampling = {"temperature": temperature, "top_p": top_p}
        return [
            make_request(self.host, route, {**body, **sampling}, options=self.request or {}, seed=seed)
            for body, seed in zip(bodies, [None] * len(bodies) if seeds is None else seeds, strict=True)
        ]

    def _written(self, ledger: Ledger, *, poll_seconds: float | None = None) -> list[Written]:
        """The texts, once the endpoint has answered what is missing; first in a batch job, if it is to be polled."""
        with ledger.accounting(self.where):
            if poll_seconds is not None:
                self._caller.submit(ledger, poll_seconds)
            self._caller.answer(ledger)
            ledger.remark(self.where)
            return ledger.written()

    @property
    def _caller(self) -> Caller:
        return Caller(self._address, self._patience, self._concurrency, self._open_cache())

    def _open_cache(self) -> Cache:
        return Cache(None if self._cache is None else cache_folder(self._cache))
