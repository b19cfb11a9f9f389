"""Where an endpoint is and what is sent there beside the request: its key, headers and query, from the environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from seal_lightning.endpoints.options import beside_body, key_in, unseen
from seal_lightning.endpoints.wire import Reply, read_reply
from seal_lightning.errors import ConfigError
from seal_lightning.text.redaction import without, without_user
from seal_lightning.types import Json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seal_lightning.endpoints.transport import Connection

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"  # goes to OpenAI, and elsewhere only if `api_key_env` says so
_ECHO = 12  # characters in a row of a secret that no reply may bring into a file
_WORD = 8  # shorter secrets are words, such as "none" in place of a key
_LARGEST = 1_000_000_000  # most bytes of a batch job's results, however many there are


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a model behind an endpoint; it holds names of variables, and no key.

    Attributes:
        model: The model's name.
        base_url: The endpoint's URL as it was given.
        api_key_env: The variable that holds the key, as it was given.
        timeout: Seconds for one attempt.
        largest: Most bytes of a reply.
        request: Options of every request, among them headers and query.
    """

    model: str
    base_url: str | None
    api_key_env: str | None
    timeout: float
    largest: int
    request: Mapping[str, Json] | None

    @property
    def url(self) -> str:
        return (self.base_url or OPENAI).rstrip("/")

    @property
    def is_openai(self) -> bool:
        return urlsplit(self.url).hostname == urlsplit(OPENAI).hostname

    @property
    def where(self) -> str:
        """The model and its endpoint, for messages."""
        return f"model {self.model} at {without_user(self.url)}"

    @property
    def key_variable(self) -> str | None:
        return self.api_key_env or (OPENAI_KEY if self.is_openai else None)

    def key(self) -> str:
        """The key, or "" for an endpoint that needs none."""
        variable = self.key_variable
        key = key_in(variable) if variable else ""
        if not key and self.is_openai:
            raise ConfigError(
                f"{self.where}: no key; set the environment variable {variable}, or base_url for an endpoint of your "
                "own"
            )
        return key

    def connect(self, replies: int = 1) -> Connection:
        """Connections for one call, to be closed, with room for so many replies in one."""
        from seal_lightning.endpoints.transport import Connection

        headers, query = beside_body(self.request)
        return Connection(
            self.url,
            key=self.key(),
            headers=headers,
            query=query,
            timeout=self.timeout,
            largest=min(replies * self.largest, max(self.largest, _LARGEST)),
        )

    def read(self, body: bytes | Json) -> Reply:
        """The reply in a body. Where its text echoes a key, that comes into no file."""
        reply = read_reply(body)
        secrets = [secret for secret in self.secrets() if len(secret) >= _WORD]
        return replace(reply, text=without(reply.text, secrets, piece=_ECHO))

    def secrets(self) -> list[str]:
        """The key itself, and whatever else is sent that nobody may see."""
        return unseen(self.request, self.key_variable)
