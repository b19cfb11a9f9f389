"""One client for models behind any OpenAI-compatible endpoint: hosted, vLLM, SGLang, `transformers serve`.

Requests are answered from disk where they were answered before, each distinct one is asked once, and what a server
counted is reported with every text. Streaming, tools and images are left out: SEAL asks for texts.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from seal_lightning.endpoints.asking import Answered, Asking, Patience
from seal_lightning.endpoints.cache import DEFAULT, Cache, cache_folder
from seal_lightning.endpoints.failures import explain
from seal_lightning.endpoints.prices import find_price
from seal_lightning.endpoints.wire import CHAT, TEXT, Reply, Request, make_request, messages, read_reply
from seal_lightning.errors import ConfigError
from seal_lightning.redaction import has_user, secrets_in, without_user
from seal_lightning.types import Prompt, Usage, Written

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
OURS = ("messages", "model", "n", "prompt", "stream", "timeout")  # not for `request`


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; its key is in the environment and nowhere else.

    Args:
        model: As the server calls it.
        base_url: Up to and with `/v1`; OpenAI's own where unset.
        api_key_env: The environment variable that holds the key. It may be unset for an endpoint of one's own.
        concurrency: Requests under way at once.
        timeout: Seconds for one attempt.
        retries: Attempts after the first, for rate limits, server errors, time-outs and garbage.
        request: Options for the body of every request, over those set here; null leaves one out. For example
            `{reasoning_effort: low}`, or `{temperature: null}` for a model that knows none.
        cache: Folder for replies, so that no request is paid for twice; null keeps none.
        prices: A YAML file such as configs/prices.yaml, or its content: dollars per million tokens by model.

    Raises:
        ConfigError: An option has a value that cannot work, holds a secret, or the key is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 8,
        request: dict[str, Any] | None = None,
        cache: str | None = DEFAULT,
        prices: str | dict[str, Any] | None = None,
    ) -> None:
        _check(model=model, base_url=base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        _check_request(request)
        if find_spec("openai") is None or find_spec("tenacity") is None:
            raise ConfigError("an endpoint needs the packages of an extra: pip install 'seal-lightning[endpoint]'")
        self.model = model
        self.base_url = base_url
        self.request = request
        # The rest decides no answer, so it has to stay out of a journal's stamp: that takes public attributes.
        self._api_key_env = api_key_env
        self._concurrency = concurrency
        self._timeout = timeout
        self._patience = Patience(retries)
        self._cache = cache
        self._price = find_price(prices, model)
        self._key()

    # -- what it is asked ------------------------------------------------------------------------------------------

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        accept: Callable[[str], bool] | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Written]:
        """Chat completions, in order.

        Args:
            prompts: Sent as system and user message, without their lead.
            max_tokens: Longest reply, thinking included.
            temperature: 0 takes the most likely token.
            top_p: The server's own where unset.
            seeds: One a prompt. Without them, equal prompts get one reply.
            accept: Replies for which it is False are returned, but not kept on disk. It is called by other threads.
            on_done: Told how many were answered since the last call.

        Raises:
            ConfigError: The endpoint refuses the key or does not know the model.
            EndpointError: It refuses a request, or does not answer one after all retries.
        """
        bodies = [{"model": self.model, "messages": messages(prompt)} for prompt in prompts]
        requests = self._requests(CHAT, bodies, max_tokens, temperature, top_p, seeds)
        return self._ask(requests, accept=accept, on_done=on_done)

    def complete(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        models: Sequence[str] | None = None,
        accept: Callable[[str], bool] | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Written]:
        """Continuations of raw texts, in order; as `write`, without a chat template.

        Args:
            models: One a text, where they are not all for this endpoint's model: adapters that the server has loaded.
                A name has to mean the same adapter for ever, since replies are kept on disk by name.
        """
        names = models or [self.model] * len(texts)
        bodies = [{"model": name, "prompt": text} for name, text in zip(names, texts, strict=True)]
        requests = self._requests(TEXT, bodies, max_tokens, temperature, top_p, seeds)
        return self._ask(requests, accept=accept, on_done=on_done)

    # -- how -------------------------------------------------------------------------------------------------------

    def _requests(
        self,
        route: str,
        bodies: Sequence[Mapping[str, Any]],
        max_tokens: int,
        temperature: float,
        top_p: float | None,
        seeds: Sequence[int] | None,
    ) -> list[Request]:
        # OpenAI's newer models refuse max_tokens, older servers of others know nothing else
        limit = "max_completion_tokens" if route == CHAT and self._is_openai() else "max_tokens"
        sampling = {limit: max_tokens, "temperature": temperature, "top_p": top_p}
        return [
            make_request(self._url(), route, {**body, **sampling}, options=self.request or {}, seed=seed)
            for body, seed in zip(bodies, seeds or [None] * len(bodies), strict=True)
        ]

    def _ask(
        self,
        requests: Sequence[Request],
        *,
        accept: Callable[[str], bool] | None,
        on_done: Callable[[int], None],
    ) -> list[Written]:
        cache = self._open_cache()
        asked = {request.key: request for request in requests}
        times = Counter(request.key for request in requests)

        def usable(reply: Reply) -> bool:
            return bool(reply.text.strip()) and (accept is None or accept(reply.text))

        def keep(request: Request, reply: Reply) -> None:
            if usable(reply):
                cache.put(request.key, reply)

        texts = {key: reply.text for key in asked if (reply := cache.get(key)) is not None and usable(reply)}
        usages: dict[str, Usage] = {}
        if texts:
            on_done(sum(times[key] for key in texts))
        pending = [request for key, request in asked.items() if key not in texts]
        for request, answered in self._answers(pending, keep=keep):
            texts[request.key] = answered.reply.text
            usages[request.key] = self._usage(answered)
            on_done(times[request.key])
        return [Written(texts[request.key], usages.pop(request.key, Usage(cached=1))) for request in requests]

    def _answers(
        self, requests: Sequence[Request], *, keep: Callable[[Request, Reply], None]
    ) -> Iterator[tuple[Request, Answered]]:
        if not requests:
            return
        done: list[Answered] = []
        with self._client() as client:
            asking = Asking(
                lambda request: self._attempt(client, request),
                where=self._where(),
                kept="answered requests are kept in the cache"
                if self._cache
                else "nothing is kept, since cache is null",
                concurrency=self._concurrency,
                patience=self._patience,
            )
            for request, answered in asking.run(requests, keep=keep):
                done.append(answered)
                yield request, answered
        self._remark(done)

    def _attempt(self, client: Any, request: Request) -> Reply:
        """Ask once."""
        import openai

        options = self.request or {}
        beside = {"headers": options.get("extra_headers") or {}, "params": options.get("extra_query") or {}}
        try:
            return read_reply(client.post(request.route, body=dict(request.body), cast_to=object, options=beside))
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is no reply, or no JSON at all
            failure = self._explain(error)
        raise failure  # out here, so that it does not carry the client's error along, which may show the key

    def _explain(self, error: Exception) -> Exception:
        return explain(error, where=self._where(), key_variable=self._api_key_env, key=self._key())

    def _usage(self, answered: Answered, *, batch: bool = False) -> Usage:
        replies = answered.replies
        price = self._price
        dollars = None if price is None else float(sum((price.dollars(r, batch=batch) for r in replies), Decimal(0)))
        return Usage(
            requests=len(replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            dollars=dollars,
        )

    def _remark(self, done: Sequence[Answered]) -> None:
        """What a person should know about the replies of one call, in one line each."""
        if uncounted := sum(not reply.counted for answered in done for reply in answered.replies):
            log.warning("%s: %d replies without a usage block, counted as 0 tokens", self._where(), uncounted)
        if empty := Counter(row.reply.finish or "unknown" for row in done if not row.reply.text.strip()):
            reasons = ", ".join(f"{name} {count}x" for name, count in empty.most_common())
            log.warning("%s: %d empty answers, finish reasons: %s", self._where(), sum(empty.values()), reasons)

    # -- where -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A client of the openai package for one call; an endpoint itself holds no connection and no key."""
        import openai

        http = openai.DefaultHttpxClient(trust_env=not _is_local(self._url()))  # no proxy towards this machine
        with openai.OpenAI(
            api_key=self._key(), base_url=self._url(), timeout=self._timeout, max_retries=0, http_client=http
        ) as client:
            yield client

    def _url(self) -> str:
        return (self.base_url or OPENAI).rstrip("/")

    def _is_openai(self) -> bool:
        return urlsplit(self._url()).hostname == urlsplit(OPENAI).hostname

    def _where(self) -> str:
        return f"model {self.model} at {without_user(self._url())}"

    def _key(self) -> str:
        if key := os.environ.get(self._api_key_env, ""):
            return key
        if self._is_openai():
            raise ConfigError(
                f"{self._where()}: no key; set the environment variable {self._api_key_env}, or base_url for an "
                "endpoint of your own"
            )
        return "none"

    def _open_cache(self) -> Cache:
        return Cache(None if self._cache is None else cache_folder(self._cache))


def _check(*, model: str, base_url: str | None, concurrency: int, timeout: float, retries: int) -> None:
    if not model.strip():
        raise ConfigError("endpoint.model is empty: expected the model's name as the server calls it")
    for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
        if value < least:
            raise ConfigError(f"endpoint.{name} must be at least {least}, got {value}")
    if not timeout > 0:
        raise ConfigError(f"endpoint.timeout must be above 0 seconds, got {timeout}")
    if base_url is not None:
        if has_user(base_url):
            raise ConfigError(
                f"endpoint.base_url={without_user(base_url)}: expected no user and password in it; keys come from the "
                "environment (api_key_env)"
            )
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"endpoint.base_url={base_url}: expected a URL such as http://localhost:8000/v1")


def _check_request(request: Mapping[str, Any] | None) -> None:
    if found := secrets_in(request):
        raise ConfigError(
            f"endpoint.request.{found[0]}: expected no keys here, they would be saved with the configuration; put the "
            "key into the environment and name the variable in api_key_env"
        )
    if clash := sorted({*(request or {})} & {*OURS}):
        raise ConfigError(
            f"endpoint.request.{clash[0]} cannot be set here: it is an option of its own, or always the same"
        )
    try:
        json.dumps(request, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"endpoint.request: expected JSON values: {error}") from error


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
