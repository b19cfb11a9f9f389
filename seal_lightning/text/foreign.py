"""Text that a server or a model wrote, made fit to be kept: it is data, whatever it contains.

JSON can carry halves of surrogate pairs and NUL characters. No UTF-8 file can hold the former, and many programs end a
text at the latter, so both become U+FFFD once, where a text enters, instead of failing wherever it is written.
"""

from __future__ import annotations

import re

_UNFIT = re.compile("[\ud800-\udfff\x00]")
REPLACED = "\N{REPLACEMENT CHARACTER}"


def sound(text: str) -> tuple[str, int]:
    """A text without the characters that cannot be kept, and how many were replaced.

    >>> sound("a" + chr(0xD83D) + "b")
    ('a\\ufffdb', 1)
    """
    return _UNFIT.subn(REPLACED, text)
