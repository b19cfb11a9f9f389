"""What goes over the wire: requests, each with a key that names its content, and replies as read from JSON.

A key is a digest of everything that decides the reply: host, route, model, messages, options and seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from seal_lightning.files.bounded import parse_json
from seal_lightning.text.escaping import sound
from seal_lightning.text.redaction import QUOTED
from seal_lightning.types import Json, JsonObject, Prompt

CHAT, TEXT = "/chat/completions", "/completions"
_MOST_TOKENS = 10**12  # a larger number cannot be the count of one reply
_NAME = 40  # characters of a finish reason that are kept
BESIDE_BODY = ("extra_headers", "extra_query", "extra_body")  # as the openai client calls them


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its route below the base URL, its JSON body, and the digest that names its content."""

    route: str
    body: Mapping[str, Json]
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server wrote, why it stopped, and its own count of tokens (`counted` is False where it gave none).

    `replaced` counts the characters of the text that could not be kept.
    """

    text: str
    finish: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    replaced: int = 0


class Garbled(ValueError):
    """A body that is not a reply."""


def make_request(
    host: str, route: str, body: Mapping[str, Json], *, options: Mapping[str, Json], seed: int | None
) -> Request:
    """The request, with `options` replacing what `body` says; an option that is None is left out of the body.

    The seed enters the key even where the options leave it out, so that a second sample stays a second sample.
    """
    named = {name: value for name, value in options.items() if name not in BESIDE_BODY}
    seeded = {} if seed is None else {"seed": seed % 2**31}  # some servers take no more
    further = options.get("extra_body")
    merged = {**body, **seeded, **named, **(further if isinstance(further, dict) else {})}
    sent = {name: value for name, value in merged.items() if value is not None}
    beside = {name: options[name] for name in BESIDE_BODY[:2] if name in options}
    content = json.dumps([host, route, sent, beside, seed], sort_keys=True)
    return Request(route, sent, hashlib.blake2b(content.encode(), digest_size=20).hexdigest())


def messages(prompt: Prompt) -> list[Json]:
    """System and user message of a prompt; its lead is for base models only."""
    given = {"system": prompt.system, "user": prompt.user}
    return [{"role": role, "content": sound(text)[0]} for role, text in given.items() if text or role == "user"]


def read_reply(body: bytes | Json) -> Reply:
    """The first choice of a chat or text completion.

    Args:
        body: The bytes as they came, or the JSON value in them.

    Raises:
        Garbled: The body is not one.
    """
    reply = parsed(body)
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choice := choices[0], dict):
        raise Garbled(f"no choices in {_shown(reply)}")
    text, replaced = sound(_text(choice, reply))
    usage, finish = reply.get("usage"), choice.get("finish_reason")
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    return Reply(
        text=text,
        finish=sound(finish[:_NAME])[0] if isinstance(finish, str) else "",
        prompt_tokens=prompt or 0,
        cached_tokens=_count(counts.get("prompt_tokens_details"), "cached_tokens") or 0,
        completion_tokens=completion or 0,
        counted=prompt is not None and completion is not None,
        replaced=replaced,
    )


def _text(choice: JsonObject, reply: JsonObject) -> str:
    """The text of a choice; null means that a model only thought, or called a tool, and so said nothing."""
    message = choice.get("message")
    holder, name = (message, "content") if isinstance(message, dict) else (choice, "text")
    text = holder.get(name, reply)
    if not isinstance(text, str | None):
        raise Garbled(f"no text in {_shown(reply)}")
    return text or ""


def parsed(body: bytes | Json) -> JsonObject:
    """The JSON object that a body is.

    Args:
        body: Bytes, read as UTF-8 whatever the server says of them, with U+FFFD for broken ones; or a JSON value.

    Raises:
        Garbled: The body is not an object.
    """
    value = body.decode("utf-8-sig", errors="replace") if isinstance(body, bytes) else body
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise Garbled(f"no JSON: {_shown(value)}") from None
    if not isinstance(value, dict):
        raise Garbled(f"no JSON object: {_shown(value)}")
    return value


def _count(counts: Json, name: str) -> int | None:
    """A number of tokens, None for anything else that a server gives for one."""
    value = counts.get(name) if isinstance(counts, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _shown(body: Json, longest: int = 120) -> str:
    text = body[: 4 * QUOTED] if isinstance(body, str) else repr(body)[: 4 * QUOTED]
    return " ".join(text.split())[:longest] or "an empty body"
