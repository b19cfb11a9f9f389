"""Keys and passwords stay out of whatever is written down: saved configurations, messages, logs.

What is called like a secret is known by its name, what is a secret by its value, which a server may echo in part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "[hidden]"
REFERENCE = "env:"  # before the name of an environment variable, in place of the secret that it holds
_SECRET = re.compile(
    r"(key|api_?keys|token|secrets?|passw(or)?ds?|passphrase|pwd|credentials?|auth|authorization|cookies?|bearer"
    r"|signature|(^|_)(sig|pass|jwt))$"
)
_HARMLESS = re.compile(r"(^|_)(cache_key|(bos|eos|pad|unk|sep|cls|mask|stop|image)_token)$")
_USER = re.compile(r"(\w://)[^/@\s]+@")
_MASKED = re.compile(r"[^\s'\"]*\*{3,}[^\s'\"]*")  # sk-ab****yz, as in refusals of a wrong key
_PIECE = 6  # so many characters in a row of a secret give it away


def is_secret(name: str) -> bool:
    """Whether an option or a header is called like a secret.

    >>> [is_secret(name) for name in ("api_key", "X-Auth-Token", "clientSecret", "max_tokens", "api_key_env")]
    [True, True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).lower()
    return bool(_SECRET.search(words)) and not _HARMLESS.search(words)


def is_reference(value: Any) -> bool:
    """Whether a value names the environment variable that holds the value proper, as in `env:MY_KEY`."""
    return isinstance(value, str) and value.startswith(REFERENCE) and variable_of(value).isidentifier()


def variable_of(reference: str) -> str:
    """The name of the variable."""
    return reference.removeprefix(REFERENCE)


def secrets_in(content: Any, path: str = "") -> list[str]:
    """Dotted paths of what is called like a secret, at any depth of a JSON value."""
    if isinstance(content, dict):
        inside = [(f"{path}.{key}".lstrip("."), key, value) for key, value in content.items()]
        return [
            found for at, key, value in inside for found in ([at] if is_secret(str(key)) else secrets_in(value, at))
        ]
    if isinstance(content, list | tuple):
        return [found for index, item in enumerate(content) for found in secrets_in(item, f"{path}[{index}]")]
    return []


def without_secrets(content: Any) -> Any:
    """A configuration without options that are called like a secret, and URLs without user and password."""
    if isinstance(content, dict):
        return {
            key: without_secrets(value)
            for key, value in content.items()
            if is_reference(value) or not (isinstance(value, str) and is_secret(str(key)))
        }
    if isinstance(content, list):
        return [without_secrets(item) for item in content]
    return without_user(content) if isinstance(content, str) else content


def without_user(text: str) -> str:
    """A text in which URLs have no user and password.

    >>> without_user("see https://me:pw@host/v1")
    'see https://host/v1'
    """
    return _USER.sub(r"\1", text)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A text that shows neither a secret nor a part of one; words with `***` in them are taken for parts.

    >>> redact("wrong key: sk-123456789.", ["sk-123456789"])
    'wrong key: [hidden].'
    >>> redact("Incorrect key sk-12*****789", ["sk-123456789"])
    'Incorrect key [hidden]'
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, HIDDEN)
        pieces = {re.escape(secret[start : start + _PIECE]) for start in range(len(secret) - _PIECE + 1)}
        if pieces:
            text = re.sub(rf"[^\s'\"]*({'|'.join(sorted(pieces))})[^\s'\"]*", HIDDEN, text)
    return without_user(_MASKED.sub(HIDDEN, text))
