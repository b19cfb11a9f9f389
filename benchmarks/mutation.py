"""Changes that turn valid inputs into invalid ones: what a fuzzer feeds to a reader.

A text is changed as bytes, a JSON value part by part. The same seed of the random generator gives the same inputs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

WEIRD: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63,
    -(10**400),
    10**4200,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "\n",
    "a",
    "\ud800",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "<think>",
    "1",
    "NaN",
    "x" * 3000,
    [],
    {},
    [[]],
    [None],
    ["a", 1],
    {"": ""},
    {"a": {"b": 1}},
    [1, 2, 3],
    [["1", "2"]],
    [[0, 1], [2]],
    {"text": ["a"]},
)
BITS: Sequence[bytes] = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\r",
    b"\n",
    b"\n\n",
    b"\t",
    b" " * 50,
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"'",
    b",",
    b":",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!int ",
    b"!!python/none ",
    b"---\n",
    b"+++\n",
    b"```",
    b"<",
    b">",
    b"<!--",
    b"-->",
    b"</p>",
    b"<table>",
    b"<pre>",
    b"|",
    b"#",
    b"- ",
    b"1. ",
    b"\\u",
    b"\\ud800",
    b"\\",
    b"9" * 40,
    b"-",
    b"1e999",
    b"null",
    b"true",
    b"NaN",
    b"~",
    b"%",
    b"$",
    b"${x}",
    b"Question:",
    b"Answer:",
    b"<think>",
    b"</think>",
    b"<|channel|>",
    b"<|message|>",
    b'{"epochs": 3}',
    "\u0301".encode() * 40,
    "水".encode(),
    "\u202e".encode(),
    "\ufdfa".encode(),
)

LARGEST = 200_000  # bytes of an input


def changed(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one or more changes."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        data = chance.choice(CHANGES)(data, chance)[:LARGEST]
    return data


def changed_json(value: Any, chance: random.Random) -> bytes:
    """A JSON text after changes to parts of its value, and sometimes to its bytes too."""
    copy = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 2, 4))):
        copy = _changed_part(copy, chance)
    text = json.dumps(copy, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, None, 1)))
    data = text.encode("utf-8", "surrogatepass" if chance.random() < 0.5 else "replace")
    return changed(data, chance) if chance.random() < 0.3 else data[:LARGEST]


def _changed_part(value: Any, chance: random.Random) -> Any:
    parts = list(_parts(value))
    if not parts:
        return deepcopy(chance.choice(WEIRD))
    holder, key = chance.choice(parts)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
    elif kind == 2:
        for _ in range(chance.choice((5, 90, 110, 150))):
            holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, list):
        holder.extend([holder[key]] * chance.choice((1, 50)))
    elif kind == 4 and isinstance(holder, dict):
        holder[chance.choice(("", "a", "title", "id", "\ud800", str(key).upper()))] = holder.pop(key)
    else:
        holder[key] = deepcopy(chance.choice(WEIRD))
    return value


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or mapping with a key into it, at any depth."""
    open_parts = [value]
    while open_parts:
        holder = open_parts.pop()
        if isinstance(holder, dict | list):
            for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
                yield holder, key
                open_parts.append(holder[key])


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return b"\x80"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _without(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _twice(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 2, 30)) + data[end:]


def _moved(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at:]


def _inserted(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(BITS) * chance.choice((1, 1, 1, 2, 20, 200)) + data[at:]


def _nested(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    opens, closes = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"<b>", b"</b>"), (b"- ", b""), (b"> ", b"")))
    depth = chance.choice((2, 50, 150, 1500))
    return data[:start] + opens * depth + data[start:end] + closes * depth + data[end:]


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 4, 20, 100, 1000)))


CHANGES: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flip,
    _cut,
    _without,
    _twice,
    _moved,
    _inserted,
    _inserted,
    _inserted,
    _nested,
)
