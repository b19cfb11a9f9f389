"""A text as the calibrated grader reads it: words, and what their spelling tells, in columns.

`words` folds case and punctuation away; here capitals (a name?) and full stops (where sentences begin) stay beside the
folded words. A blank-separated token is read once and remembered, which is what makes reading many answers fast.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from seal_lightning.grading.words import STOP_WORDS, stem, words

_INITIALS = re.compile(r"\W*((?:[^\W\d_]\.){2,}[^\W\d_]?)\W*")  # U.S. is one word
_SENTENCE_END = re.compile(r"[^\WA-Z][)\]\"'”’%]*[.!?][)\]\"'”’]*$|¶$")  # not the stop of an initial
_ABBREVIATION = re.compile(r"\W*(?:Dr|Mr|Mrs|Ms|St|Mt|Jr|Sr|Gen|Col|Prof|vs|ca?|no)\.\W*", re.IGNORECASE)
_FIRST_LETTER = re.compile(r"[^\W_]")


class Reading(NamedTuple):
    """The words of a text, column by column.

    Attributes:
        texts: Folded, as `words` gives them.
        stems: Without one common ending.
        roots: The first four letters of longer stems, so that "algal" meets "algae".
        names: Whether the word begins with a capital.
        stops: Whether it is a stop word.
        starts: Where sentences begin.
    """

    texts: tuple[str, ...]
    stems: tuple[str, ...]
    roots: tuple[str, ...]
    names: tuple[bool, ...]
    stops: tuple[bool, ...]
    starts: list[int]


NOTHING = Reading((), (), (), (), (), [])


def read(text: str, *, most: int | None = None) -> Reading:
    """The words of a text in order, of `most` blank-separated ones at most.

    >>> read("He saw Dr. Smith. Then,\\nafter 20 years, nothing.").starts
    [0, 4, 5]
    """
    if "\n" in text:
        text = text.replace("\n", "¶ ")  # a new line ends a sentence as a full stop does
    rows = list(chain.from_iterable(map(_read_token, text.split()[:most])))
    if not rows:
        return NOTHING
    texts, stems, roots, names, stops, ends = zip(*rows, strict=True)
    starts = [0]
    if True in ends:
        starts += [place + 1 for place, end in enumerate(ends[:-1]) if end]
    return Reading(texts, stems, roots, names, stops, starts)


def root(word: str) -> str:
    """The first four letters of a longer word, marked so that they never equal a word of four letters."""
    return f"{word[:4]}~" if len(word) > 4 and word.isalpha() else word


@lru_cache(maxsize=1 << 16)
def _read_token(token: str) -> tuple[tuple[str, str, str, bool, bool, bool], ...]:
    """Text, stem, root, is a name, is a stop word, ends a sentence: of each word in a token."""
    initials = _INITIALS.fullmatch(token)
    found = words(initials[1].replace(".", "") if initials else token)
    first = _FIRST_LETTER.search(token)
    is_name = bool(first) and first[0].isupper()
    ends = not initials and not _ABBREVIATION.fullmatch(token) and bool(_SENTENCE_END.search(token))
    last = len(found) - 1
    return tuple(
        (word, stem(word), root(stem(word)), is_name, word in STOP_WORDS, ends and place == last)
        for place, word in enumerate(found)
    )
