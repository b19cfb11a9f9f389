"""The secrets of this process, masked in everything it prints, including tracebacks and the logs of libraries.

An environment variable is a secret if its name says so, or if an endpoint reads a key or a header from it. Values are
looked up when something is printed, so that none is kept here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from seal_lightning.text.redaction import HIDDEN, is_secret, without, without_secrets

_SHORTEST = 8  # characters; shorter values are words such as "none"
_PIECE = 12  # characters in a row: with fewer, a key such as my-development-key would hide words of everyday logs
_PLACES = ("PWD", "OLDPWD")  # folders, though they are named like a password
_IN_URL = re.compile(r"\w://[^/@\s:]*:([^/@\s]+)@")  # the password of a proxy or a database, whatever names it
_LIKE_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[/.~][A-Za-z0-9+/=_-]{19,}")  # base64 may begin as a path does
_NAMED: set[str] = set()  # variables that endpoints read, whatever they are called


def remember(variable: str) -> None:
    """Treat the value of an environment variable as a secret from now on."""
    _NAMED.add(variable)


def known_secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The values of secret variables, and passwords within URLs; paths do not count, whatever they are called."""
    values = (secret for name, value in environment.items() for secret in _secrets_of(name, value))
    return tuple(secret for secret in values if len(secret) >= _SHORTEST)


def _secrets_of(name: str, value: str) -> Iterator[str]:
    if name in _NAMED or (is_secret(name) and name not in _PLACES and not _is_path(value)):
        yield value
    yield from _IN_URL.findall(value)


def _is_path(value: str) -> bool:
    if not value.startswith(("/", "~", ".")):
        return False
    return not _LIKE_KEY.fullmatch(value) or os.path.exists(value)


def masked(text: str) -> str:
    """A text without the secrets of this process, fit to be shown or written."""
    return without(text, known_secrets(), piece=_PIECE)


def safe_to_save(content: object) -> Any:
    """JSON values fit to be saved: nothing whose name says that it is a secret, and no secret of this process.

    Known secrets are hidden only as a whole; a part may be a word that a path or a name needs.
    """
    return _hide(without_secrets(content), [secret for secret in known_secrets() if len(secret) >= _PIECE])


def _hide(content: object, secrets: list[str]) -> object:
    if isinstance(content, dict):
        return {key: _hide(value, secrets) for key, value in content.items()}
    if isinstance(content, list):
        return [_hide(item, secrets) for item in content]
    if isinstance(content, str):
        for secret in secrets:
            content = content.replace(secret, HIDDEN)
    return content
