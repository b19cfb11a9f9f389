"""What goes over the wire: requests with a key that names their content, and replies as read from the JSON that came.

A key is a digest of everything that decides the reply: host, route, model, messages, options and seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seal_lightning.files.bounded import parse_json
from seal_lightning.text.foreign import sound
from seal_lightning.text.redaction import QUOTED
from seal_lightning.types import Prompt

CHAT, TEXT = "/chat/completions", "/completions"
_MOST_TOKENS = 10**12  # of one reply: more is no count
_NAME = 40  # characters of a finish reason that are kept
BESIDE_BODY = ("extra_headers", "extra_query", "extra_body")  # as the openai client calls them


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its route below the base URL, its JSON body, and the digest that names its content."""

    route: str
    body: Mapping[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server wrote, why it stopped, and its own count of tokens (`counted` is False where it gave none).

    `replaced` counts characters of the text that could not be kept.
    """

    text: str
    finish: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    replaced: int = 0


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
    system = [{"role": "system", "content": sound(prompt.system)[0]}] if prompt.system else []
    return [*system, {"role": "user", "content": sound(prompt.user)[0]}]


def read_reply(body: Any) -> Reply:
    """The first choice of a chat or text completion.

    Args:
        body: Bytes as they came, or the JSON value in them.

    Raises:
        Garbled: The body is none.
    """
    body = parsed(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Garbled(f"no choices in {_shown(body)}")
    text, replaced = sound(_text(choices[0], body))
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    prompt, completion = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    finish = choices[0].get("finish_reason")
    return Reply(
        text=text,
        finish=sound(finish[:_NAME])[0] if isinstance(finish, str) else "",
        prompt_tokens=prompt or 0,
        cached_tokens=_count(counts.get("prompt_tokens_details"), "cached_tokens") or 0,
        completion_tokens=completion or 0,
        counted=prompt is not None and completion is not None,
        replaced=replaced,
    )


def _text(choice: Mapping[str, Any], body: Any) -> str:
    """What a choice says; null is what a model that only thought, or called a tool, has said: nothing."""
    message = choice.get("message")
    holder, name = (message, "content") if isinstance(message, Mapping) else (choice, "text")
    text = holder.get(name, body)
    if not isinstance(text, str | None):
        raise Garbled(f"no text in {_shown(body)}")
    return text or ""


def parsed(body: Any) -> Mapping[str, Any]:
    """The JSON object that a body is.

    Args:
        body: Bytes in UTF-8, of which broken ones become U+FFFD, whatever the server says of them; or a value.

    Raises:
        Garbled: It is none.
    """
    if isinstance(body, bytes):
        body = body.decode("utf-8-sig", errors="replace")
    if isinstance(body, str):
        try:
            body = parse_json(body)
        except ValueError:
            raise Garbled(f"no JSON: {_shown(body)}") from None
    if not isinstance(body, Mapping):
        raise Garbled(f"no JSON object: {_shown(body)}")
    return body


def _count(counts: Any, name: str) -> int | None:
    """A number of tokens, None for anything else that a server gives for one."""
    value = counts.get(name) if isinstance(counts, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _shown(body: Any, longest: int = 120) -> str:
    text = body[: 4 * QUOTED] if isinstance(body, str) else repr(body)[: 4 * QUOTED]
    return " ".join(text.split())[:longest] or "an empty body"
