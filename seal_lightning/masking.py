"""The secrets of this process, masked in whatever is logged, also by libraries and in tracebacks.

A variable of the environment is a secret if it is called like one, or if an endpoint reads a key or a header from it.
Values are looked up when something is logged, so that none is kept here.
"""

from __future__ import annotations

import logging
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


class Masking(logging.Filter):
    """Masks the message and the traceback of a record; for a handler, so that libraries' records pass it as well."""

    _plain = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._plain.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = masked(record.exc_text)
        if record.stack_info:
            record.stack_info = masked(record.stack_info)
        return True
