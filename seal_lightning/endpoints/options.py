"""Checks of an endpoint's options: they hold no secrets and no values that cannot work."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from seal_lightning.endpoints.keys import check_beside
from seal_lightning.endpoints.wire import BESIDE_BODY
from seal_lightning.errors import ConfigError
from seal_lightning.text.redaction import secrets_in

_LONGEST_URL = 2000
_OURS = ("messages", "model", "n", "prompt", "stream", "timeout")  # not for `request`


def check_options(
    model: str, base_url: str | None, api_key_env: str | None, timeout: float, max_reply_mb: float
) -> None:
    """Raise a `ConfigError` for a value that cannot work."""
    if api_key_env is not None and not api_key_env.isidentifier():  # not shown: it may be the key itself
        raise ConfigError("endpoint.api_key_env: expected the name of an environment variable, such as OPENAI_API_KEY")
    if not model.strip():
        raise ConfigError("endpoint.model is empty: expected the model's name as the server calls it")
    if not timeout > 0:
        raise ConfigError(f"endpoint.timeout must be above 0 seconds, got {timeout}")
    if not 0 < max_reply_mb < float("inf"):
        raise ConfigError(f"endpoint.max_reply_mb must be above 0, got {max_reply_mb}: try 8")
    if base_url is not None:
        _check_url(base_url)


def _check_url(url: str) -> None:
    if len(url) > _LONGEST_URL:
        raise ConfigError(f"endpoint.base_url: expected at most {_LONGEST_URL} characters, got {len(url)}")
    if "@" in url.partition("?")[0]:
        raise ConfigError(
            f"endpoint.base_url={_shown(url)}: expected no user and password in it; keys come from the environment "
            "(api_key_env)"
        )
    if not _is_url(url):
        raise ConfigError(
            f"endpoint.base_url={_shown(url)}: expected a URL such as http://localhost:8000/v1, and no query"
        )


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets without an address, a port that is not a number
        return False
    named = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:%-]+", parts.hostname or "") and port != 0
    return bool(named) and not parts.query and not parts.fragment and not re.search(r"\s", url)


def _shown(url: str) -> str:
    """The URL on one line, without user, password and query."""
    if "@" in url and "?" in url:
        return "[hidden]"  # who can tell where a password ends
    return " ".join(re.sub(r"//.*@", "//", url, flags=re.DOTALL).partition("?")[0].split())


def check_request(request: Mapping[str, object] | None) -> None:
    """Raise a `ConfigError` for options that hold a secret, are not JSON, or are not for the user to set."""
    body = dict(request or {})
    for option in BESIDE_BODY[:2]:
        check_beside(option, body.pop(option, None) or {})
    if (secret := next(secrets_in(body), None)) is not None:
        raise ConfigError(
            f"endpoint.request.{secret}: keys do not belong here, where they would be saved with the configuration; "
            "put the key into the environment and name the variable in api_key_env"
        )
    further = body.get("extra_body") or {}
    if not isinstance(further, Mapping):
        raise ConfigError("endpoint.request.extra_body: expected names and their values")
    if clash := [*sorted({*body} & {*_OURS}), *(f"extra_body.{name}" for name in sorted({*further} & {*_OURS}))]:
        raise ConfigError(
            f"endpoint.request.{clash[0]} cannot be set here: it has an option of its own, or never changes"
        )
    try:
        json.dumps(request, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"endpoint.request: expected JSON values: {error}") from error


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def host_of(url: str) -> str:
    """Who answers at a URL: its host and path without port and `/v1`; this machine is `local`, whatever its address.

    >>> [host_of(url) for url in ("http://127.0.0.1:8001/v1", "https://api.openai.com/v1", "https://proxy:443/openai/v1")]
    ['local', 'api.openai.com', 'proxy/openai']
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return ("local" if is_local(url) else str(parts.hostname)) + path
