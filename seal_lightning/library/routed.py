"""A library in front of a server that speaks OpenAI's protocol: ASGI middleware, which vLLM takes by `--middleware`.

    model: NAME   the adapter of that name, if it is ready in the manifest now: no retired one, and no other folder
    model: auto   the router chooses a document by the question; its adapter is asked with the prompt of training
    model: base   the base model, as it is

The manifest is read again when it has changed, so that a document is served, or no longer, without a restart. Besides
chat and text completions only what is read is passed on: by others, anybody could load adapters from any folder.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal_lightning.errors import ConfigError, DataError, SealError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import contained
from seal_lightning.library.manifest import ADAPTERS, MANIFEST, Manifest, read_document, read_manifest
from seal_lightning.library.router import BM25, Router
from seal_lightning.text.placeholders import PROMPT, filled
from seal_lightning.types import Context, JsonObject

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

FOLDER = "SEAL_LIBRARY"  # the environment variable with the library's folder
AUTO, BASE = "auto", "base"  # what a request may call its model, besides an adapter's name
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
READS = ("GET", "HEAD", "OPTIONS")
# The distribution as it is, without what a model ships besides.
PLAIN: Mapping[str, float] = {"temperature": 0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Served:
    """What a library serves at one moment.

    Attributes:
        names: What its adapters are called.
        documents: By document: title, adapter's name, and that adapter's `prompt.json`.
        router: Knows the documents.
    """

    names: frozenset[str]
    documents: Mapping[str, tuple[str, str, JsonObject]]
    router: Router


def read_served(folder: Path) -> Served:
    """What the manifest of a library says now.

    Raises:
        ConfigError, DataError: As `read_manifest` and `read_document`; or an adapter's `prompt.json` is missing.
    """
    manifest = read_manifest(folder)
    documents, read = {}, []
    for entry in manifest.documents:
        adapter = (entry.adapter if entry.status == "ready" else None) or _of_all(manifest, entry.id)
        if adapter is not None:
            documents[entry.id] = (entry.title, Path(adapter).name, read_prompt(folder, adapter))
            read.append(Context(entry.id, entry.title, read_document(folder, entry.text).text))
    router = BM25()
    router.open(read)
    names = {name for _, name, _ in documents.values()} | {Path(name).name for name in [_of_all(manifest)] if name}
    return Served(frozenset(names), documents, router)


def _of_all(manifest: Manifest, document: str | None = None) -> str | None:
    """The adapter of all documents, if it is ready, and has learnt this one."""
    together = manifest.together
    if together is None or together.status != "ready" or not together.adapter.startswith(f"{ADAPTERS}/"):
        return None
    return together.adapter if document is None or document in together.documents else None


def read_prompt(folder: Path, adapter: str) -> JsonObject:
    """The `prompt.json` of an adapter of a library. Raises `DataError` where that is missing or damaged."""
    path = contained(folder, f"{adapter}/{PROMPT}")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise DataError(f"{path}: expected the prompt of an adapter, got something else: run seal adapt with --resume")
    return content


class Refused(Exception):
    """A request for a model that is not served; its text is for who asked."""


def rewritten(served: Served, path: str, request: JsonObject) -> JsonObject:
    """The request as the server is to get it.

    Raises:
        Refused: The model that it asks for is not served.
    """
    model = request.get("model") or BASE
    if model != AUTO:
        if not isinstance(model, str) or model not in {BASE, *served.names}:
            raise Refused(f"expected auto, base or the name of an adapter that is ready, got {str(model)[:80]!r}")
        return request
    question = _question(path, request)
    route = served.router.route(question)
    if not route.fits:
        return {**request, "model": BASE}
    title, name, prompt = served.documents[route.matches[0].document]
    stop = prompt.get("stop")
    asked = {**PLAIN, "max_tokens": prompt.get("max_answer_tokens"), **request, "model": name}
    if isinstance(stop, dict):
        asked.setdefault("stop_token_ids", stop.get("token_ids"))

    if path == TEXT:
        return {
            **asked,
            "prompt": filled(str(prompt["text"]), title=title, question=question),
            "add_special_tokens": False,
        }
    messages = prompt.get("messages")
    said = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    asked["messages"] = [
        {**one, "content": filled(str(one.get("content")), title=title, question=question)} for one in said
    ]
    return asked


def _question(path: str, request: JsonObject) -> str:
    """What is asked: the prompt, or the user's last message. Raises `Refused`."""
    asked = request.get("prompt")
    if path == CHAT:
        messages = request.get("messages")
        said = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
        asked = next((one.get("content") for one in reversed(said) if one.get("role") == "user"), None)
    if not isinstance(asked, str) or not asked.strip():
        raise Refused("model auto expects a question as one text, got something else: ask an adapter by its name")
    return asked.strip()


class Routed:
    """The middleware. The environment variable SEAL_LIBRARY names the folder of the library.

    Args:
        app: The server.

    Raises:
        ConfigError, DataError: There is no library that could be served.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        if not os.environ.get(FOLDER):
            raise ConfigError(f"{FOLDER}: expected the folder of a library, got nothing: set that variable")
        self.folder = Path(os.environ[FOLDER])
        self._seen = self._state()
        self._served = read_served(self.folder)

    def _state(self) -> tuple[int, int]:
        try:
            found = (self.folder / MANIFEST).stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_ino

    def served(self) -> Served:
        """What is served now; as before where the folder cannot be read at this moment."""
        if (state := self._state()) != self._seen:
            try:
                self._served, self._seen = read_served(self.folder), state
            except SealError as error:
                log.warning("the library is served as it was: %s", error)
        return self._served

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] != "http" or scope["method"] in READS:
            await self.app(scope, receive, send)
        elif scope["path"] in (CHAT, TEXT):
            await self._ask(scope, receive, send)
        else:
            await _answer(send, 403, f"a library answers {CHAT} and {TEXT} alone; change it with seal adapt")

    async def _ask(self, scope: Message, receive: Receive, send: Send) -> None:
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
            message = await receive()
        try:
            request = json.loads(body)
            if isinstance(request, dict):
                body = json.dumps(rewritten(self.served(), scope["path"], request)).encode()
        except Refused as error:
            await _answer(send, 404, str(error))
            return
        except ValueError:
            pass  # the server says what is wrong with it
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(given, None) or await receive()

        await self.app({**scope, "headers": [*headers, (b"content-length", b"%d" % len(body))]}, again, send)


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": {"message": text, "type": "NotFoundError", "param": "model", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
