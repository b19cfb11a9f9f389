"""What goes over the wire: requests with a key that names their content, and replies as read from the JSON that came.

A key is a digest of everything that decides the reply: host, route, model, messages, options and seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seal_lightning.types import Prompt

CHAT, TEXT = "/chat/completions", "/completions"
BESIDE_BODY = ("extra_headers", "extra_query", "extra_body")  # as the openai client calls them


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its route below the base URL, its JSON body, and the digest that names its content."""

    route: str
    body: Mapping[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server wrote, why it stopped, and its own count of tokens (`counted` is False where it gave none)."""

    text: str
    finish: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True


class Garbled(ValueError):
    """A body that is no reply."""


def make_request(
    host: str, route: str, body: Mapping[str, Any], *, options: Mapping[str, Any], seed: int | None
) -> Request:
    """The request with `options` over what `body` says; an option that is None is left out of the body.

    The seed enters the key even where the options leave it out, so that a second sample stays a second sample.
    """
    named = {name: value for name, value in options.items() if name not in BESIDE_BODY}
    seeded = {} if seed is None else {"seed": seed % 2**31}  # some servers take no more
    merged = {**body, **seeded, **named, **(options.get("extra_body") or {})}
    sent = {name: value for name, value in merged.items() if value is not None}
    beside = {name: options[name] for name in BESIDE_BODY[:2] if name in options}
    content = json.dumps([host, route, sent, beside, seed], sort_keys=True)
    return Request(route, sent, hashlib.blake2b(content.encode(), digest_size=20).hexdigest())


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """System and user message of a prompt; its lead is for base models only."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": prompt.user}]


def read_reply(body: Any) -> Reply:
    """The first choice of a chat or text completion.

    Raises:
        Garbled: The body is none.
    """
    body = parsed(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Garbled(f"no choices in {_shown(body)}")
    first = choices[0]
    message = first.get("message")
    text = message.get("content") if isinstance(message, Mapping) else first.get("text")
    if not isinstance(text, str | None):
        raise Garbled(f"no text in {_shown(body)}")
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text=text or "",
        finish=str(first.get("finish_reason") or ""),
        prompt_tokens=_count(counts, "prompt_tokens"),
        cached_tokens=_count(counts.get("prompt_tokens_details"), "cached_tokens"),
        completion_tokens=_count(counts, "completion_tokens"),
        counted="prompt_tokens" in counts,
    )


def parsed(body: Any) -> Mapping[str, Any]:
    """The JSON object that a body is; one that came under another content type is text until here.

    Raises:
        Garbled: It is none.
    """
    if isinstance(body, str | bytes):
        try:
            body = json.loads(body)
        except ValueError:
            raise Garbled(f"no JSON: {_shown(body)}") from None
    if not isinstance(body, Mapping):
        raise Garbled(f"no JSON object: {_shown(body)}")
    return body


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0


def _shown(body: Any, longest: int = 120) -> str:
    text = body if isinstance(body, str) else repr(body)
    return " ".join(text.split())[:longest] or "an empty body"
