"""Keys and passwords stay out of everything that is written: saved configurations, messages, logs, what is printed.

Some secrets are recognised by the name of their option, others by their value, which a server may echo in part. Those
of this process are masked in everything it prints, including tracebacks and the logs of libraries: an environment
variable is a secret if its name says so, or if an endpoint reads a key or a header from it. Values are looked up when
something is printed, so that none is kept here. Every function takes time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeGuard
from urllib.parse import quote, quote_plus

HIDDEN = "[hidden]"
QUOTED = 300  # characters at most of what a server said, in a message
REFERENCE = "env:"  # precedes the name of the environment variable that holds a secret
_SECRET = re.compile(
    r"(key|api_?keys|token|secrets?|passw(or)?ds?|passphrase|passcode|pwd|credentials?|auth|authorization|cookies?|bearer"
    r"|signature|connection_?string|webhook(_ur[il])?|(^|_)(sig|pass|jwt|pat|otp)"
    r"|((api|private|access)_?key|token|secret|password)_(value|pem|text|data))$"
)
_PASSWORD = re.compile(r"(?i)(passw|passcode|pwd|(^|_)pin$)")  # may consist of digits
_HARMLESS = re.compile(r"(^|_)(cache_key|(bos|eos|pad|unk|sep|cls|mask|stop|image)_token)$")
_USER = re.compile(r"(\w://)[^/@\s]+@")
_QUERY = re.compile(r"([?&;]([\w.-]+)=)[^&;#\s'\"]+")  # a parameter of a URL
_WITHIN_URLS = ("code", "sv", "sig")  # parameters that let in whoever has the URL
_STARS = re.compile(r"\*{3,}")  # as in sk-ab****yz, where a wrong key is refused
_EDGE = re.compile(r"[\s'\"]")  # of a word, which is hidden as a whole
_PIECE = 6  # so many characters in a row of a secret give it away
_WORTH_ENCODING = 8  # characters from which a secret is also searched for in other encodings
_SIGHT = 20 * QUOTED  # characters of a server's words that are looked at


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether the name of an option or a header says that it is a secret.

    >>> [is_secret(name) for name in ("api_key", "X-Auth-Token", "clientSecret", "max_tokens", "api_key_env")]
    [True, True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).lower()
    return bool(_SECRET.search(words)) and not _HARMLESS.search(words)


def is_reference(value: object) -> TypeGuard[str]:
    """Whether a value names the environment variable that holds the real one, as in `env:MY_KEY`."""
    return isinstance(value, str) and value.startswith(REFERENCE) and variable_of(value).isidentifier()


def variable_of(reference: str) -> str:
    """The name of the variable."""
    return reference.removeprefix(REFERENCE)


def secrets_in(content: object, path: str = "") -> Iterator[str]:
    """Dotted paths of everything that is named like a secret, at any depth of a JSON value."""
    if isinstance(content, dict):
        for key, value in content.items():
            inner = f"{path}.{key}".lstrip(".")
            yield from [inner] if is_secret(str(key)) else secrets_in(value, inner)
    elif isinstance(content, list | tuple):
        for index, item in enumerate(content):
            yield from secrets_in(item, f"{path}[{index}]")


def without_secrets(content: object, *, secret: bool = False) -> Any:
    """A configuration without what is named like a secret, at any depth, and with no user, password or key in URLs.

    Args:
        content: JSON values.
        secret: Whether they are below the name of a secret; references to the environment stay there, too.
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


def _tells(value: object) -> bool:
    return isinstance(value, str) and not is_reference(value)


def without_user(text: str) -> str:
    """A text in which URLs have no user, no password, and no key among their parameters.

    >>> without_user("see https://me:pw@host/v1?api_key=abc&page=2")
    'see https://host/v1?api_key=[hidden]&page=2'
    """
    return _QUERY.sub(_without_value, _USER.sub(r"\1", text))


def _without_value(parameter: re.Match[str]) -> str:
    hidden = is_secret(parameter[2]) or parameter[2] in _WITHIN_URLS
    return f"{parameter[1]}{HIDDEN}" if hidden else parameter[0]


# -- by value ----------------------------------------------------------------------------------------------------------


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without secrets and parts of them; words that contain `***` are taken for parts.

    >>> redact("wrong key: sk-123456789.", ["sk-123456789"])
    'wrong key: [hidden].'
    >>> redact("Incorrect key sk-12*****789", ["sk-123456789"])
    'Incorrect key [hidden]'
    """
    text = without(text, secrets, piece=_PIECE)
    stars = [match.span() for match in _STARS.finditer(text)]
    return without_user(_hide_words(text, stars))


def quoted(text: str, secrets: Iterable[str] = (), *, longest: int = QUOTED) -> str:
    """A server's words, fit to be shown: one line of bounded length, without secrets.

    >>> quoted("slow  down,\\nsk-123456789", ["sk-123456789"])
    'slow down, [hidden]'
    """
    line = " ".join(redact(text[:_SIGHT], secrets).split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def without(text: str, secrets: Iterable[str], *, piece: int) -> str:
    """A text in which secrets are hidden, encoded ones too (base64, percent signs, JSON, HTML, hexadecimal).

    Args:
        text: Any text.
        secrets: Values to hide.
        piece: How many characters of a secret in a row make a word that is hidden.
    """
    whole, pieces = _looked_for(tuple(secrets), piece)
    for form in whole:
        text = text.replace(form, HIDDEN)
    if not pieces or len(text) < piece:
        return text
    spans = [(start, start + piece) for start in range(len(text) - piece + 1) if text[start : start + piece] in pieces]
    return _hide_words(text, spans)


def _hide_words(text: str, spans: list[tuple[int, int]]) -> str:
    """Hide the words that spans touch; the spans are ordered by their starts."""
    shown: list[str] = []
    done = 0
    for start, stop in spans:
        if start < done:
            if stop > done:  # it continues in the next word
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
    """What is hidden wherever it occurs, longest first, and the pieces whose whole word is hidden."""
    known = [secret for secret in secrets if secret]
    whole = {form for secret in known for form in (secret, *_encoded(secret))}
    parts = {part for secret in known for form in (secret, *_in_base64(secret)) for part in _pieces(form, piece)}
    return tuple(sorted(whole, key=len, reverse=True)), frozenset(parts)


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _encoded(secret: str) -> Iterator[str]:
    """The ways in which libraries and servers write a secret."""
    if len(secret) < _WORTH_ENCODING:
        return
    data = secret.encode(errors="surrogateescape")
    yield from (quote(data, safe=""), quote_plus(data), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    yield from (html.escape(secret), data.hex(), data.hex().upper(), secret.lower(), secret.upper())
    yield from ("".join(f"%{byte:02{case}}" for byte in data) for case in "xX")
    yield from _in_base64(secret)


def _in_base64(secret: str) -> Iterator[str]:
    """The characters that a secret has in base64 whatever precedes and follows it, as in `user:key`."""
    if len(secret) < _WORTH_ENCODING:
        return
    data = secret.encode(errors="surrogateescape")
    for before in range(3):  # bytes of a group of three that belong to something else
        whole = base64.b64encode(bytes(before) + data[: (len(data) + before) // 3 * 3 - before]).decode()
        own = whole[(0, 2, 3)[before] :]
        yield from (own, own.replace("+", "-").replace("/", "_"))


_SHORTEST = 8  # characters of our own secrets; shorter values are words such as "none"
_PIECE_OF_OURS = 12  # characters in a row: with fewer, my-development-key would hide words of everyday logs
_PLACES = ("PWD", "OLDPWD")  # folders, though they are named like a password
_IN_URL = re.compile(r"\w://[^/@\s:]*:([^/@\s]+)@")  # the password of a proxy or a database, whatever names it
_LIKE_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[/.~][A-Za-z0-9+/=_-]{19,}")  # base64 may begin as a path does
_NAMED: set[str] = set()  # variables that endpoints read, whatever they are called


def remember(variable: str) -> None:
    """Treat the value of an environment variable as a secret from now on."""
    _NAMED.add(variable)


def known_secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The values of secret variables, and passwords within URLs; paths do not count, whatever they are called."""
    values = []
    for name, value in environment.items():
        if name in _NAMED or (is_secret(name) and name not in _PLACES and not _is_path(value)):
            values.append(value)
        values += _IN_URL.findall(value)
    return tuple(value for value in values if len(value) >= _SHORTEST)


def _is_path(value: str) -> bool:
    if not value.startswith(("/", "~", ".")):
        return False
    return not _LIKE_KEY.fullmatch(value) or os.path.exists(value)


def masked(text: str) -> str:
    """A text without the secrets of this process, fit to be shown or written."""
    return without(text, known_secrets(), piece=_PIECE_OF_OURS)


def safe_to_save(content: object) -> Any:
    """JSON values fit to be saved: nothing whose name says that it is a secret, and no secret of this process.

    Known secrets are hidden only as a whole; a part may be a word that a path or a name needs.
    """
    return _hide(without_secrets(content), [secret for secret in known_secrets() if len(secret) >= _PIECE_OF_OURS])


def _hide(content: object, secrets: list[str]) -> object:
    if isinstance(content, dict):
        return {key: _hide(value, secrets) for key, value in content.items()}
    if isinstance(content, list):
        return [_hide(item, secrets) for item in content]
    if isinstance(content, str):
        for secret in secrets:
            content = content.replace(secret, HIDDEN)
    return content
