"""What an endpoint's options may be: no secrets, no values that cannot work."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from seal_lightning.errors import ConfigError
from seal_lightning.redaction import has_user, secrets_in, without_user

OURS = ("messages", "model", "n", "prompt", "stream", "timeout")  # not for `request`


def check_options(
    *, model: str, base_url: str | None, api_key_env: str, concurrency: int, timeout: float, retries: int
) -> None:
    """Raise a `ConfigError` for a value that cannot work."""
    if not api_key_env.isidentifier():  # not shown: it may be the key itself
        raise ConfigError("endpoint.api_key_env: expected the name of an environment variable, such as OPENAI_API_KEY")
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
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            shown = base_url.partition("?")[0]
            raise ConfigError(
                f"endpoint.base_url={shown}: expected a URL such as http://localhost:8000/v1, and no query"
            )


def check_request(request: Mapping[str, Any] | None) -> None:
    """Raise a `ConfigError` for options of the body that hold a secret, are not JSON, or not for the user to set."""
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


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
