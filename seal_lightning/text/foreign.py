"""Text that a server or a model wrote, made fit to be kept: it is data, whatever stands in it.

JSON can carry halves of surrogate pairs and NUL characters. No file in UTF-8 holds the former, and many programs end a
text at the latter, so both become U+FFFD where a text enters, once, instead of failing wherever it is written down.
"""

from __future__ import annotations

import re

_UNFIT = re.compile("[\ud800-\udfff\x00]")
REPLACED = "\N{REPLACEMENT CHARACTER}"


def sound(text: str) -> tuple[str, int]:
    """A text without what cannot be kept, and how many characters were replaced.

    >>> sound("a" + chr(0xD83D) + "b")
    ('a\\ufffdb', 1)
    """
    return _UNFIT.subn(REPLACED, text)
