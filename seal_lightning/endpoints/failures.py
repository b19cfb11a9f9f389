"""What a failed attempt means: another attempt may help, or one line says what went wrong, where, and what to do.

No message shows the key or another secret: servers echo it, in part, when they refuse it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from seal_lightning.errors import ConfigError, EndpointError, SealError
from seal_lightning.files.bounded import parse_json
from seal_lightning.text.redaction import QUOTED, quoted
from seal_lightning.types import Json

if TYPE_CHECKING:
    import openai

    from seal_lightning.endpoints.address import Address

RETRIED = {408, 409, 425, 429}  # and every status from 500 on
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
    """A failed attempt that is worth repeating.

    Args:
        kind: One word or a status, for counting.
        reason: What happened.
        wait: Seconds for which the server wants to be left alone.
    """

    def __init__(self, kind: str, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Finds the failure behind an error of the openai client, or behind a `ValueError` about a body.

    What it returns holds no secret and is raised outside the `except`, so that it does not carry the client's error
    along, which may show the key.

    Attributes:
        address: Where the endpoint is, and which secrets are sent there.
        final: Statuses that are not worth another attempt.
    """

    address: Address
    final: Collection[int] = ()

    @property
    def where(self) -> str:
        return self.address.where

    def __call__(self, error: Exception) -> Again | SealError:
        import openai

        if isinstance(error, openai.APIStatusError):
            if 300 <= error.status_code < 400 and "location" in error.response.headers:
                return self._redirected(error)
            return self._refused(error)
        if isinstance(error, openai.APITimeoutError):
            return Again("time-out", f"no whole answer within {self.address.timeout:g} seconds (endpoint.timeout)")
        if isinstance(error, openai.APIConnectionError):
            return Again("connection", f"no connection: {self._quoted(str(error.__cause__ or error))}")
        return Again("garbage", f"garbage: {self._quoted(str(error))}")

    def _redirected(self, error: openai.APIStatusError) -> SealError:
        """A redirect is not followed: key, headers and prompt are meant for the host that they were set for."""
        target = error.response.headers["location"][: 4 * QUOTED]
        with suppress(ValueError):  # brackets without an address: shown as they are
            target = urljoin(str(error.request.url), target)
        return ConfigError(
            f"{self.where}: redirects to {self._quoted(re.split('[?#]', target)[0])} (status {error.status_code}), "
            "where neither key nor prompt was sent; set endpoint.base_url to that address if you trust it"
        )

    def _refused(self, error: openai.APIStatusError) -> Again | SealError:
        status = error.status_code
        said = self._quoted((said_by(error.response.content) or error.message).rstrip("."))
        if status == 429 and error.code == "insufficient_quota":
            return EndpointError(f"{self.where}: the quota is used up: {said}; add credit, then run the command again")
        if status not in self.final and (status in RETRIED or status >= 500):
            return Again(str(status), f"status {status}: {said}", wait_of(error.response.headers))
        kind = ConfigError if status in (401, 403, 404) else EndpointError
        advice = _ADVICE.get(status, "check base_url and request")
        variable = self.address.key_variable
        if "{key}" in advice and variable is None:
            advice = "name the environment variable that holds this endpoint's key in endpoint.api_key_env"
        advice = advice.replace("{key}", f"${variable}")
        return kind(f"{self.where}: refused with status {status}: {said}; {advice}")

    def _quoted(self, text: str) -> str:
        return quoted(text, self.address.secrets())


def said_by(body: bytes | Json) -> str:
    """What a refusal says, as one line: OpenAI's `message`, or FastAPI's `detail`.

    Args:
        body: The bytes as they came, or the JSON value in them.
    """
    told: object = body
    if isinstance(body, bytes):
        told = text = body.decode(errors="replace")
        with suppress(ValueError):
            told = parse_json(text)
    for _ in range(_DEEPEST):
        if not isinstance(told, Mapping):
            break
        inner = [told[name] for name in ("message", "detail", "error") if told.get(name)]
        if not inner:
            break
        told = inner[0]
    text = "" if told is None else told if isinstance(told, str) else repr(told)
    return " ".join(re.sub(r"<[^<>]*>", " ", text).split())  # some proxies answer with a web page


def wait_of(headers: Mapping[str, str]) -> float:
    """Seconds that the Retry-After header asks for, as a number or a date; 0 without one.

    >>> wait_of({"retry-after": "20"})
    20.0
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            return max(0.0, float(headers[name]) * unit)
    with suppress(KeyError, ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return 0.0
