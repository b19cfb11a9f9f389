"""An endpoint's options hold no values that cannot work, and no secrets: only the names of variables that do.

Secrets come from the environment when a request is sent. The value of a header or a query parameter may be a secret,
whatever its name: `env:NAME` there stands for the variable NAME.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from seal_lightning.endpoints.wire import BESIDE_BODY
from seal_lightning.errors import ConfigError
from seal_lightning.text.redaction import REFERENCE, is_reference, known_secrets, remember, secrets_in, variable_of

_HARMLESS = re.compile(
    r"accept(-\w+)?|user-agent|http-referer|x-title|x-request-id|(api|anthropic)-version|openai-(organization|project)",
    re.IGNORECASE,
)  # names of headers and parameters that take a value as it is
_LONG = 6  # shorter keys are words such as "none"
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
    try:
        parts = urlsplit(url)
        is_host = re.fullmatch(r"[\w.:%-]+", parts.hostname or "") and parts.port != 0
    except ValueError:  # brackets without an address, a port that is not a number
        is_host = None
    if not is_host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or re.search(r"\s", url):
        raise ConfigError(
            f"endpoint.base_url={_shown(url)}: expected a URL such as http://localhost:8000/v1, and no query"
        )


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


def held_in(variable: str) -> str:
    """The value of an environment variable, "" where it is unset; from here on every log treats it as a secret.

    Values of the environment are reached from a configuration in no other way.
    """
    remember(variable)
    return os.environ.get(variable, "")


def key_in(variable: str) -> str:
    """The key that a variable holds, "" where it is unset. Raises `ConfigError` if it cannot be sent."""
    key = held_in(variable)
    if not re.fullmatch(r"[!-~]*", key):  # not shown, of course
        raise ConfigError(f"the key in ${variable} has white space or characters outside ASCII: copy it again")
    return key


def check_beside(option: str, values: object) -> None:
    """Raise a `ConfigError` for headers or a query that may hold a secret."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"endpoint.request.{option}: expected names and their values")
    for name, value in values.items():
        where = f"endpoint.request.{option}.{name}"
        if is_reference(value):
            continue
        if not _HARMLESS.fullmatch(str(name)) or str(value).startswith(REFERENCE):
            raise ConfigError(
                f"{where}: expected env:NAME, for the value of the environment variable NAME; a value given here would "
                "be saved with the configuration, and might be a secret"
            )
        if not isinstance(value, str):
            raise ConfigError(f"{where}: expected text, got {value!r}; put it in quotes")


def beside_body(request: Mapping[str, object] | None) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and query to be sent, with the values of variables.

    Raises:
        ConfigError: A variable is unset, or its value cannot be sent.
    """
    headers, query = (
        {name: _value(f"{option}.{name}", value) for name, value in given_in(request, option).items()}
        for option in BESIDE_BODY[:2]
    )
    return headers, query


def given_in(request: Mapping[str, object] | None, option: str) -> dict[str, str]:
    """The headers or the query parameters of a request, as they were given."""
    values = (request or {}).get(option)
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, Mapping) else {}


def _value(option: str, value: str) -> str:
    if not is_reference(value):
        return value
    held = held_in(variable_of(value))
    if not held:
        raise ConfigError(f"endpoint.request.{option}: the environment variable {variable_of(value)} is not set")
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", held):
        raise ConfigError(
            f"endpoint.request.{option}: ${variable_of(value)} has white space around it, several lines or characters "
            "outside ASCII: set it again"
        )
    return held


def unseen(request: Mapping[str, object] | None, key_variable: str | None) -> list[str]:
    """What nobody may see: the key, what variables put into headers and query, and all other secrets of the process."""
    given = [value for option in BESIDE_BODY[:2] for value in given_in(request, option).values()]
    variables = [key_variable, *(variable_of(value) for value in given if is_reference(value))]
    sent = [value for variable in variables if variable and (value := held_in(variable))]
    return [*dict.fromkeys([*sent, *known_secrets()])]


def keyless(options: object, key: str, variable: str, path: str = "endpoint") -> None:
    """Raise a `ConfigError` if the key stands in the options, which are saved with the configuration."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            keyless(str(name), key, variable, path)
            keyless(value, key, variable, f"{path}.{name}")
    elif isinstance(options, list | tuple):
        for value in options:
            keyless(value, key, variable, path)
    elif isinstance(options, str) and len(key) >= _LONG and key in options:
        raise ConfigError(f"{path} holds the key in ${variable}: take it out, it is sent anyway and would be saved")
