"""One client for models behind any OpenAI-compatible endpoint: hosted, vLLM, SGLang, `transformers serve`.

Requests are answered from disk where they were answered before, each distinct one is asked once, and what a server
counted is reported with every text. Streaming, tools and images are left out: SEAL asks for texts.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from seal_lightning.endpoints.asking import EMPTY_ATTEMPTS, Answered, Insistence, Patience, ask_all, in_threads
from seal_lightning.endpoints.batch import BatchJob, job_key
from seal_lightning.endpoints.cache import DEFAULT, Cache, cache_folder
from seal_lightning.endpoints.failures import explain
from seal_lightning.endpoints.keys import beside_body, key_in, keyless, unseen
from seal_lightning.endpoints.ledger import Ledger
from seal_lightning.endpoints.options import check_options, check_request, host_of
from seal_lightning.endpoints.prices import find_price
from seal_lightning.endpoints.wire import CHAT, TEXT, Reply, Request, make_request, messages, parsed, read_reply
from seal_lightning.errors import ConfigError, SealError
from seal_lightning.files.extras import install
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.foreign import sound
from seal_lightning.text.redaction import without, without_user
from seal_lightning.types import Prompt, Written

if TYPE_CHECKING:
    from seal_lightning.endpoints.connection import Connection

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"  # goes to OpenAI, and elsewhere where `api_key_env` says so
_ECHO = 12  # characters in a row of a secret that no reply may bring into a file
_LARGEST = 1_000_000_000  # bytes at most of a batch job's results, however many there are
T = TypeVar("T")


class Endpoint(Remembers):
    """A model behind an OpenAI-compatible endpoint; its key is in the environment and nowhere else.

    Args:
        model: As the server calls it.
        base_url: Up to and with `/v1`; OpenAI's own where unset.
        api_key_env: The environment variable that holds the key. Where it is not given, OPENAI_API_KEY goes to OpenAI
            and no key to any other host.
        concurrency: Requests under way at once.
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
        ConfigError: An option has a value that cannot work, holds a secret, or the key is missing.
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
        check_options(
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            max_reply_mb=max_reply_mb,
        )
        variable = api_key_env or OPENAI_KEY
        keyless({"base_url": base_url, "request": request}, os.environ.get(variable, ""), variable)
        check_request(request)
        if any(find_spec(name) is None for name in ("openai", "httpx2", "tenacity")):
            raise ConfigError(f"an endpoint needs packages that are not installed: {install('endpoint')}")
        self.model = model
        self.host = host_of(base_url or OPENAI)
        self.request = request
        # The rest decides no answer, so it has to stay out of a journal's stamp: that takes public attributes.
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._concurrency = concurrency
        self._timeout = timeout
        self._largest = int(max_reply_mb * 1e6)
        self._patience = Patience(retries)
        self._cache = cache
        self._price = find_price(prices, model)
        self._key()
        beside_body(request)
        self._open_cache().foresee()

    @property
    def base_url(self) -> str | None:
        """Where it is, as it was given."""
        return self._base_url

    @property
    def where(self) -> str:
        """The model and its endpoint, for messages."""
        return f"model {self.model} at {without_user(self._url())}"

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
        may_be_empty: bool = False,
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
            may_be_empty: Believe an empty answer at once; otherwise the model is asked three times.
            on_done: Told how many were answered since the last call; also 0, about once a second while it waits, and
                may raise to end the call.

        Raises:
            ConfigError: The endpoint refuses the key or does not know the model.
            EndpointError: It refuses a request, or does not answer one after all retries.
        """
        requests = self._chat(prompts, max_tokens, temperature, top_p, seeds)
        ledger = self._ledger(requests, accept, on_done, may_be_empty=may_be_empty)
        with ledger.accounting(self.where):
            return self._answered(ledger)

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
            texts: What is continued; as token ids where the server is not to tokenize (vLLM and SGLang take them).
            max_tokens: Longest continuation, of all or of each text.
            models: One a text, where they are not all for this endpoint's model: adapters that the server has loaded.
                A name has to mean the same adapter for ever, since replies are kept on disk by name.
            on_done: As `write`: also told 0, about once a second while it waits, and may raise to end the call.
        """
        names = [self.model] * len(texts) if models is None else models
        prompts = [sound(text)[0] if isinstance(text, str) else list(text) for text in texts]
        limits = [max_tokens] * len(texts) if isinstance(max_tokens, int) else max_tokens
        bodies = [
            {"model": name, "prompt": prompt, "max_tokens": limit}
            for name, prompt, limit in zip(names, prompts, limits, strict=True)
        ]
        requests = self._requests(TEXT, bodies, temperature, top_p, seeds)
        ledger = self._ledger(requests, accept, on_done, may_be_empty=may_be_empty)
        with ledger.accounting(self.where):
            return self._answered(ledger)

    def write_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float | None = None,
        seeds: Sequence[int] | None = None,
        accept: Callable[[str], bool] | None = None,
        on_done: Callable[[int], None] = lambda count: None,
        poll_seconds: float = 30.0,
    ) -> list[Written]:
        """Chat completions as one job of the OpenAI Batch API; as `write`, cheaper and within a day.

        A run that is interrupted meanwhile finds the job again when it asks for the same. What failed within the job is
        asked for once more, singly.

        Args:
            on_done: As `write`: also told 0, about once a second while it waits, and may raise to end the call; the job
                goes on and is found again.
            poll_seconds: How often to ask whether the job has ended.

        Raises:
            ConfigError: As `write`; or the endpoint has no batch routes, or there is no cache to keep the job in.
            EndpointError: As `write`; or the job failed, expired or was cancelled.
        """
        if self._cache is None:
            raise ConfigError("endpoint.cache=null: batch mode keeps its job there; name a folder, or leave it off")
        requests = self._chat(prompts, max_tokens, temperature, top_p, seeds)
        ledger = self._ledger(requests, accept, on_done)
        with ledger.accounting(self.where):
            self._submit(ledger, job_key(requests), poll_seconds)
            return self._answered(ledger)

    def asking(self, *, kept: bool = True, **request: Any) -> Endpoint:
        """The same endpoint with further options in every request; not `kept`, its replies are in no cache."""
        other = copy.copy(self)
        other.request = {**(self.request or {}), **request}
        other._cache = self._cache if kept else None
        return other

    def command(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        final: Collection[int] = (),
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Tell the server something outside the OpenAI API, such as which adapter to load; retried like a request.

        Args:
            path: Below the server's address, such as `/v1/load_lora_adapter`.
            body: JSON.
            final: Statuses that are an answer, where they would be tried again otherwise.
            on_wait: Called about twice a second while it waits, and may raise to end the call.

        Raises:
            ConfigError: As `write`.
            EndpointError: As `write`.
        """
        url = self._url().removesuffix("/v1") + path
        self._asked(lambda client: client.post(url, body), on_wait, final=final)

    def models(self, *, on_wait: Callable[[], None] = lambda: None) -> list[Mapping[str, Any]]:
        """What the server says of the models that it holds: `id`, and what else it tells. As `command`."""
        listed = self._asked(lambda client: parsed(client.get("/models")), on_wait)
        rows = listed.get("data")
        known = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        return [row for row in known if isinstance(row.get("id"), str)]

    def _asked(self, ask: Callable[[Connection], T], on_wait: Callable[[], None], *, final: Collection[int] = ()) -> T:
        """What the server answers to one request that is not kept, asked in a thread so that the wait can be ended."""
        client, insist, answers = self._client(), self._insistence(lambda: "nothing is lost"), []
        in_threads(
            [lambda: insist(lambda: self._once(lambda: ask(client), final=final))],
            threads=1,
            insist=insist,
            on_result=answers.append,
            on_wait=on_wait,
            close=client.close,
        )
        return answers[0]

    # -- how -------------------------------------------------------------------------------------------------------

    def _chat(self, prompts: Sequence[Prompt], max_tokens: int, *sampling: Any) -> list[Request]:
        # OpenAI's newer models refuse max_tokens, older servers of others know nothing else
        limit = "max_completion_tokens" if self._is_openai() else "max_tokens"
        bodies = [{"model": self.model, "messages": messages(prompt), limit: max_tokens} for prompt in prompts]
        return self._requests(CHAT, bodies, *sampling)

    def _requests(
        self,
        route: str,
        bodies: Sequence[Mapping[str, Any]],
        temperature: float,
        top_p: float | None,
        seeds: Sequence[int] | None,
    ) -> list[Request]:
        sampling = {"temperature": temperature, "top_p": top_p}
        return [
            make_request(self.host, route, {**body, **sampling}, options=self.request or {}, seed=seed)
            for body, seed in zip(bodies, [None] * len(bodies) if seeds is None else seeds, strict=True)
        ]

    def _ledger(
        self,
        requests: Sequence[Request],
        accept: Callable[[str], bool] | None,
        on_done: Callable[[int], None],
        *,
        may_be_empty: bool = False,
    ) -> Ledger:
        return Ledger(
            requests,
            cache=self._open_cache(),
            price=self._price,
            accept=accept,
            may_be_empty=may_be_empty,
            on_done=on_done,
        )

    def _answered(self, ledger: Ledger) -> list[Written]:
        """What was written, once the endpoint has been asked for what is missing."""
        if pending := ledger.pending:
            ledger.check_cache()
            client = self._client()
            ask_all(
                pending,
                lambda request: ledger.note(self._once(lambda: self._read(client.post(request.route, request.body)))),
                insist=self._insistence(ledger.kept),
                empties=1 if ledger.may_be_empty else EMPTY_ATTEMPTS,
                concurrency=self._concurrency,
                keep=ledger.keep,
                on_answer=ledger.enter,
                on_wait=ledger.wait,
                close=client.close,
            )
        ledger.remark(self.where)
        return ledger.written()

    def _submit(self, ledger: Ledger, key: str, poll_seconds: float) -> None:
        """Enter what a batch job answers of what is missing."""
        if not (pending := ledger.pending):
            return
        ledger.check_cache()
        client, insist, cache = self._client(len(pending)), self._insistence(ledger.kept), self._open_cache()
        job = BatchJob(client, once=self._once, read=self._read, insist=insist, cache=cache, where=self.where)

        def keep(request: Request, reply: Reply) -> None:
            ledger.keep(request, ledger.note(reply, batch=True))

        def enter(replies: Sequence[tuple[Request, Reply]]) -> None:
            for request, reply in replies:
                ledger.enter(request, Answered(reply, (reply,)), batch=True)

        in_threads(
            [lambda: job.run(pending, key=key, poll_seconds=poll_seconds, keep=keep)],
            threads=1,
            insist=insist,
            on_result=enter,
            on_wait=ledger.wait,
            close=client.close,
        )

    def _insistence(self, kept: Callable[[], str]) -> Insistence:
        return Insistence(self._patience, where=self.where, kept=kept)

    def _read(self, body: Any) -> Reply:
        """The reply in a body. A text that brings a key along does not bring it into any file."""
        reply = read_reply(body)
        return replace(reply, text=without(reply.text, self._secrets(whole=True), piece=_ECHO))

    def _secrets(self, *, whole: bool = False) -> list[str]:
        """What nobody may see; `whole` leaves out those that are words, such as "none" in place of a key."""
        return [secret for secret in unseen(self.request, self._key_variable) if not whole or len(secret) >= 8]

    def _once(self, call: Callable[[], T], *, final: Collection[int] = ()) -> T:
        """What a call with the client returns, or what its failure means."""
        import openai

        try:
            return call()
        except SealError:
            raise
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is no reply, or no JSON at all
            failure = explain(
                error,
                where=self.where,
                key_variable=self._key_variable,
                timeout=self._timeout,
                secrets=self._secrets(),
                final=final,
            )
        raise failure  # out here, so that it does not carry the client's error along, which may show the key

    # -- where -----------------------------------------------------------------------------------------------------

    def _client(self, replies: int = 1) -> Connection:
        """Connections for one call, to be closed; an endpoint holds none, and no key."""
        from seal_lightning.endpoints.connection import Connection

        headers, query = beside_body(self.request)
        return Connection(
            self._url(),
            key=self._key(),
            headers=headers,
            query=query,
            timeout=self._timeout,
            largest=min(replies * self._largest, max(self._largest, _LARGEST)),
        )

    def _url(self) -> str:
        return (self._base_url or OPENAI).rstrip("/")

    def _is_openai(self) -> bool:
        return urlsplit(self._url()).hostname == urlsplit(OPENAI).hostname

    @property
    def _key_variable(self) -> str | None:
        return self._api_key_env or (OPENAI_KEY if self._is_openai() else None)

    def _key(self) -> str:
        variable = self._key_variable
        key = key_in(variable) if variable else ""
        if not key and self._is_openai():
            raise ConfigError(
                f"{self.where}: no key; set the environment variable {variable}, or base_url for an endpoint of your "
                "own"
            )
        return key

    def _open_cache(self) -> Cache:
        return Cache(None if self._cache is None else cache_folder(self._cache))
