"""Secrets come from the environment when a request is sent; options only hold the names of variables.

The value of a header or a query parameter may be a secret, whatever its name: `env:NAME` there stands for the variable
NAME. Only some harmless names take a value as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from seal_lightning.endpoints.wire import BESIDE_BODY
from seal_lightning.errors import ConfigError
from seal_lightning.text.redaction import REFERENCE, is_reference, known_secrets, remember, variable_of

_HARMLESS = re.compile(
    r"accept(-\w+)?|user-agent|http-referer|x-title|x-request-id|(api|anthropic)-version|openai-(organization|project)",
    re.IGNORECASE,
)
_LONG = 6  # shorter keys are words such as "none"


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
