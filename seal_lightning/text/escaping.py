"""Texts of models, servers and files, made harmless for what people read: terminals, logs, reports and tables.

HTML is escaped by its template engine. This module deals with what that leaves (characters that act without being seen)
and with Markdown and terminals, which have no such engine. Everything a command prints passes through here in
`processes/streams.py`. JSON can carry halves of surrogate pairs and NUL characters. No UTF-8 file can hold the former,
and many programs end a text at the latter, so both become U+FFFD once, where a text enters (`sound`).
"""

from __future__ import annotations

import json
import re

# Controls, marks and overrides of the writing direction, invisible spaces and tags, halves of surrogate pairs. The
# joiners of emoji and of Indic and Persian words (U+200C, U+200D) stay.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNFIT = re.compile("[\ud800-\udfff\x00]")
_ENTITIES = {ord(character): f"&#{ord(character)};" for character in "&<>|`[\\"}


def visible(text: str) -> str:
    r"""The text with line breaks as \n, and a name in place of every character that acts without being seen.

    >>> visible("an\x00d\r\nabc\u202edef")
    'an⟨U+0000⟩d\nabc⟨U+202E⟩def'
    """
    return _UNSEEN.sub(lambda unseen: f"⟨U+{ord(unseen[0]):04X}⟩", text.replace("\r\n", "\n"))


def single_line(text: str) -> str:
    """As `visible`, with a name in place of line breaks too, so that no text can add a line to a log.

    >>> single_line("not found\\nseal: done")
    'not found⟨U+000A⟩seal: done'
    """
    return visible(text).replace("\n", "⟨U+000A⟩")


def visible_json(text: str) -> str:
    r"""The same JSON value, with escapes in place of characters that act without being seen.

    >>> visible_json('{"an\u202edef": "\x9b"}')
    '{"an\\u202edef": "\\u009b"}'
    """
    return _UNSEEN.sub(lambda unseen: json.dumps(unseen[0])[1:-1] if unseen[0] != "\r" else "\r", text)


def shortened(text: str, longest: int) -> str:
    """The text, cut to `longest` characters with an ellipsis at the end."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def markdown_cell(text: str, longest: int) -> str:
    """One table cell: no line breaks, no pipes, no HTML, code or links from the model."""
    flat = " / ".join(line.strip() for line in text.splitlines() if line.strip())
    return shortened(visible(flat), longest).translate(_ENTITIES)


def sound(text: str) -> tuple[str, int]:
    """A text without the characters that cannot be kept, and how many were replaced.

    >>> sound("a" + chr(0xD83D) + "b")
    ('a\\ufffdb', 1)
    """
    return _UNFIT.subn("\N{REPLACEMENT CHARACTER}", text)
