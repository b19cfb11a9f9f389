"""Keys and passwords stay out of whatever is written down: saved configurations, messages, logs.

What is called like a secret is known by its name, what is a secret by its value, which a server may echo in part. Every
function here takes time in proportion to the text, whatever stands in it. `masking.py` knows the process's own secrets.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "[hidden]"
QUOTED = 300  # characters at most of what a server said, in a message
REFERENCE = "env:"  # before the name of an environment variable, in place of the secret that it holds
_SECRET = re.compile(
    r"(key|api_?keys|token|secrets?|passw(or)?ds?|passphrase|passcode|pwd|credentials?|auth|authorization|cookies?|bearer"
    r"|signature|connection_?string|webhook(_ur[il])?|(^|_)(sig|pass|jwt|pat|otp)"
    r"|((api|private|access)_?key|token|secret|password)_(value|pem|text|data))$"
)
_PASSWORD = re.compile(r"(?i)(passw|passcode|pwd|(^|_)pin$)")  # which may consist of digits
_HARMLESS = re.compile(r"(^|_)(cache_key|(bos|eos|pad|unk|sep|cls|mask|stop|image)_token)$")
_USER = re.compile(r"(\w://)[^/@\s]+@")
_QUERY = re.compile(r"([?&;]([\w.-]+)=)[^&;#\s'\"]+")  # a parameter of a URL
_WITHIN_URLS = ("code", "sv", "sig")  # parameters that admit whoever has the URL
_STARS = re.compile(r"\*{3,}")  # as in sk-ab****yz, in refusals of a wrong key
_EDGE = re.compile(r"[\s'\"]")  # of a word, which is hidden as a whole
_PIECE = 6  # so many characters in a row of a secret give it away
_WORTH_ENCODING = 8  # characters of a secret that is looked for in other encodings as well
_SIGHT = 20 * QUOTED  # characters of a server's words that are looked at


@lru_cache(maxsize=4096)
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


def without_secrets(content: Any, *, secret: bool = False) -> Any:
    """A configuration without what is called like a secret, at any depth, and URLs without users, passwords and keys.

    Args:
        content: JSON values.
        secret: Whether it stands below a name of a secret; references to the environment stay there, too.
    """
    if isinstance(content, dict):
        below = {key: secret or is_secret(str(key)) for key in content}
        kept = {
            key: value
            for key, value in content.items()
            if not (below[key] and _tells(value)) and not (isinstance(value, int) and _PASSWORD.search(str(key)))
        }
        return {key: without_secrets(value, secret=below[key]) for key, value in kept.items()}
    if isinstance(content, list):
        return [without_secrets(item, secret=secret) for item in content if not (secret and _tells(item))]
    return without_user(content) if isinstance(content, str) else content


def _tells(value: Any) -> bool:
    return isinstance(value, str) and not is_reference(value)


def without_user(text: str) -> str:
    """A text in which URLs have no user and password, and no key among their parameters.

    >>> without_user("see https://me:pw@host/v1?api_key=abc&page=2")
    'see https://host/v1?api_key=[hidden]&page=2'
    """
    return _QUERY.sub(_without_value, _USER.sub(r"\1", text))


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{HIDDEN}" if is_secret(found[2]) or found[2] in _WITHIN_URLS else found[0]


# -- by value ----------------------------------------------------------------------------------------------------------


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A text that shows neither a secret nor a part of one; words with `***` in them are taken for parts.

    >>> redact("wrong key: sk-123456789.", ["sk-123456789"])
    'wrong key: [hidden].'
    >>> redact("Incorrect key sk-12*****789", ["sk-123456789"])
    'Incorrect key [hidden]'
    """
    text = without(text, secrets, piece=_PIECE)
    stars = [match.span() for match in _STARS.finditer(text)]
    return without_user(_hide_words(text, stars))


def quoted(text: str, secrets: Iterable[str] = (), *, longest: int = QUOTED) -> str:
    """What may be shown of a server's words: one line of bounded length, without secrets.

    >>> quoted("slow  down,\\nsk-123456789", ["sk-123456789"])
    'slow down, [hidden]'
    """
    line = " ".join(redact(text[:_SIGHT], secrets).split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def without(text: str, secrets: Iterable[str], *, piece: int) -> str:
    """A text in which secrets are hidden, also where they are encoded (base64, percent signs, JSON, HTML, hexadecimal).

    Args:
        text: Any.
        secrets: Their values.
        piece: A word with so many characters in a row of a secret is hidden.
    """
    whole, pieces = _looked_for(tuple(secrets), piece)
    for form in whole:
        text = text.replace(form, HIDDEN)
    if not pieces or len(text) < piece:
        return text
    found = [(start, start + piece) for start in range(len(text) - piece + 1) if text[start : start + piece] in pieces]
    return _hide_words(text, found)


def _hide_words(text: str, spans: list[tuple[int, int]]) -> str:
    """Hide the words that spans touch, which are in order of their starts."""
    shown: list[str] = []
    done = 0
    for start, stop in spans:
        if start < done:
            if stop > done:  # it goes on in the next word
                done = _end_of_word(text, stop)
            continue
        left = start
        while left > done and not _EDGE.match(text[left - 1]):
            left -= 1
        shown += [text[done:left], HIDDEN]
        done = _end_of_word(text, stop)
    return "".join([*shown, text[done:]])


def _end_of_word(text: str, position: int) -> int:
    edge = _EDGE.search(text, position)
    return edge.start() if edge else len(text)


@lru_cache(maxsize=64)
def _looked_for(secrets: tuple[str, ...], piece: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """What is hidden wherever it stands, longest first, and the pieces whose whole word is."""
    known = [secret for secret in secrets if secret]
    whole = {form for secret in known for form in (secret, *_encoded(secret))}
    parts = {part for secret in known for form in (secret, *_in_base64(secret)) for part in _pieces(form, piece)}
    return tuple(sorted(whole, key=len, reverse=True)), frozenset(parts)


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _encoded(secret: str) -> Iterator[str]:
    """The ways in which libraries and servers write a secret down."""
    if len(secret) < _WORTH_ENCODING:
        return
    data = secret.encode(errors="surrogateescape")
    yield from (quote(data, safe=""), quote_plus(data), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield from (html.escape(secret), data.hex(), data.hex().upper(), secret.lower(), secret.upper())
    yield from ("".join(f"%{byte:02{case}}" for byte in data) for case in "xX")
    yield from _in_base64(secret)


def _in_base64(secret: str) -> Iterator[str]:
    """The characters that a secret has in base64 whatever stands before and after it, as in `user:key`."""
    if len(secret) < _WORTH_ENCODING:
        return
    data = secret.encode(errors="surrogateescape")
    for before in range(3):  # bytes of a group of three that belong to something else
        whole = base64.b64encode(bytes(before) + data[: (len(data) + before) // 3 * 3 - before]).decode()
        own = whole[(0, 2, 3)[before] :]
        yield from (own, own.replace("+", "-").replace("/", "_"))
