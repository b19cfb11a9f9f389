"""The secrets of this process, masked in whatever it prints, logs of libraries and tracebacks among it.

A variable of the environment is a secret if it is called like one, or if an endpoint reads a key or a header from it.
Values are looked up when something is printed, so that none is kept here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from seal_lightning.redaction import is_secret, without

_SHORTEST = 8  # characters; shorter values are words such as "none"
_PIECE = 12  # characters in a row: with fewer, a key such as my-development-key would hide words of everyday logs
_PLACES = ("PWD", "OLDPWD")  # called like a password
_NAMED: set[str] = set()  # variables that endpoints read, whatever they are called


def remember(variable: str) -> None:
    """Treat what a variable of the environment holds as a secret from now on."""
    _NAMED.add(variable)


def known_secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The values of the variables that are secrets; paths are none, whatever the variable is called."""
    return tuple(
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST
        and (name in _NAMED or (is_secret(name) and name not in _PLACES and not value.startswith(("/", "~", "."))))
    )


def masked(text: str) -> str:
    """A text without the secrets of this process, for whatever is shown or written down."""
    return without(text, known_secrets(), piece=_PIECE)
