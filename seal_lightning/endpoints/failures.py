"""What went wrong at an endpoint: worth another attempt, or one line that says what, where and what to do.

No message shows the key or another secret: servers echo it, in part, when they refuse it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

from seal_lightning.errors import ConfigError, EndpointError, SealError
from seal_lightning.files.bounded import parse_json
from seal_lightning.text.redaction import QUOTED, quoted

RETRIED = {408, 409, 425, 429}  # and every status of 500 and above
_DEEPEST = 10  # levels at which a refusal's words are looked for
_ADVICE = {
    400: "check request, max_tokens and the model's window",
    401: "set {key} to a valid key",
    402: "check the account's credit",
    403: "check what the key in {key} may use",
    404: "check base_url and model",
    405: "check base_url",
    422: "check request: the server does not know one of the options",
}


class Again(Exception):
    """An attempt that may go well another time.

    Args:
        kind: One word or a status, for counting.
        reason: What happened.
        wait: Seconds that the server wants to be left alone.
    """

    def __init__(self, kind: str, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.wait = wait


def explain(
    error: Exception,
    *,
    where: str,
    key_variable: str | None,
    timeout: float,
    secrets: Sequence[str],
    final: Collection[int] = (),
) -> Again | SealError:
    """The failure behind an error of the openai client, without secrets, fit to be raised outside its `except`.

    Args:
        error: Of the client, or a `ValueError` about a body.
        where: The model and its endpoint, for messages.
        key_variable: The environment variable that holds the key, if one is set.
        timeout: Seconds that a request may take.
        secrets: The key itself, and what else was sent that nobody may see.
        final: Statuses that are not worth another attempt.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        if 300 <= error.status_code < 400 and "location" in error.response.headers:
            return _redirected(error, where=where, secrets=secrets)
        return _refused(error, where=where, key_variable=key_variable, secrets=secrets, final=final)
    if isinstance(error, openai.APITimeoutError):
        return Again("time-out", f"no whole answer within {timeout:g} seconds (endpoint.timeout)")
    if isinstance(error, openai.APIConnectionError):
        return Again("connection", f"no connection: {quoted(str(error.__cause__ or error), secrets)}")
    return Again("garbage", f"garbage: {quoted(str(error), secrets)}")


def _redirected(error: Any, *, where: str, secrets: Sequence[str]) -> SealError:
    """A redirect is not followed: key, headers and prompt are for the host that they were set for."""
    target = error.response.headers["location"][: 4 * QUOTED]
    with suppress(ValueError):  # brackets without an address: shown as it is
        target = urljoin(str(error.request.url), target)
    shown = quoted(re.split("[?#]", target)[0], secrets)
    return ConfigError(
        f"{where}: redirects to {shown} (status {error.status_code}), where neither key nor prompt was sent; set "
        "endpoint.base_url to that address if you trust it"
    )


def _refused(
    error: Any, *, where: str, key_variable: str | None, secrets: Sequence[str], final: Collection[int]
) -> Again | SealError:
    status = error.status_code
    said = quoted((said_by(error.response.content) or error.message).rstrip("."), secrets)
    if status == 429 and error.code == "insufficient_quota":
        return EndpointError(f"{where}: the quota is used up: {said}; add credit, then run the command again")
    if status not in final and (status in RETRIED or status >= 500):
        return Again(str(status), f"status {status}: {said}", wait_of(error.response.headers))
    kind = ConfigError if status in (401, 403, 404) else EndpointError
    advice = _ADVICE.get(status, "check base_url and request")
    if "{key}" in advice and key_variable is None:
        advice = "name the environment variable that holds this endpoint's key in endpoint.api_key_env"
    return kind(f"{where}: refused with status {status}: {said}; {advice.replace('{key}', f'${key_variable}')}")


def said_by(body: Any) -> str:
    """What a refusal says, as one line; OpenAI's `message`, or FastAPI's `detail`.

    Args:
        body: Bytes as they came, or the JSON value in them.
    """
    if isinstance(body, bytes):
        text = body.decode(errors="replace")
        try:
            body = parse_json(text)
        except ValueError:
            body = text
    for _ in range(_DEEPEST):
        if not isinstance(body, Mapping):
            break
        told = [body[name] for name in ("message", "detail", "error") if body.get(name)]
        if not told:
            break
        body = told[0]
    text = "" if body is None else body if isinstance(body, str) else repr(body)
    return " ".join(re.sub(r"<[^<>]*>", " ", text).split())  # some proxies answer with a web page


def wait_of(headers: Mapping[str, str]) -> float:
    """Seconds that the Retry-After header asks for, which gives them or a date; 0 without one.

    >>> wait_of({"retry-after": "20"})
    20.0
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, OverflowError):
        return 0.0
