"""A text as the calibrated grader reads it: words, and what their spelling tells, in columns.

`words` folds case and punctuation away; here capitals (a name?) and the ends of clauses and sentences stay beside the
folded words. A blank-separated token is read once and remembered, and columns are compared as sets: that is what makes
reading many answers fast. Where there are no blanks, each character is a word and the pair that it begins its root.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple

from seal_lightning.grading.scripts import (
    clusters,
    counts,
    fold,
    is_grammar,
    is_other,
    is_unspaced,
    normalised,
    pairs,
    pieces,
    with_plain_marks,
)
from seal_lightning.grading.words import (
    ARTICLES,
    STOP_WORDS,
    english_stem,
    is_stop_word,
    latin_words,
    other_words,
    stem,
)

SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
LONGEST_WORD = 100  # characters; a longer one is not remembered
_MONTHS = "january february march april may june july august september october november december"
MONTHS = {name: place for place, name in enumerate(_MONTHS.split(), start=1)}
MULTIPLES = {"double": 2.0, "dual": 2.0, "twice": 2.0, "triple": 3.0, "single": 1.0, "once": 1.0, "dozen": 12.0}
_INITIALS = re.compile(r"\W*((?:[^\W\d_]\.){2,}[^\W\d_]?)\W*")  # U.S. is one word
_INITIAL = re.compile(r"[A-Z]\.")  # of a first name
_ABBREVIATION = re.compile(r"\W*(?:Dr|Mr|Mrs|Ms|St|Mt|Jr|Sr|Gen|Col|Prof|vs|ca?|no)\.\W*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[^\WA-Z][)\]\"'”’%]*[.!?][)\]\"'”’]*$|¶$")  # not the stop of an initial
_FIRST_LETTER = re.compile(r"[^\W_]")


class Reading(NamedTuple):
    """The words of a text, column by column.

    Attributes:
        texts: Folded, as `words` gives them; "2 million" is one word.
        roots: Without one common ending, and of longer words the first four letters: "bacterial" meets "bacteria". The
            stems of words in other letters.
        content: The roots of content words, "" in the place of others.
        plain: The folded words, each with a blank, but for articles: joined they are the text to compare by letters.
        names: Whether the word begins with a capital.
        numbers: Whether it may tell a number.
        ends: Whether a sentence ends after the word.
    """

    texts: tuple[str, ...]
    roots: tuple[str, ...]
    content: tuple[str, ...]
    plain: tuple[str, ...]
    names: tuple[bool, ...]
    numbers: tuple[bool, ...]
    ends: tuple[bool, ...]

    def starts(self) -> list[int]:
        """Where sentences begin."""
        inner = self.ends[:-1]
        return [0, *[place for place, end in enumerate(inner, start=1) if end]] if True in inner else [0]

    def with_single(self, characters: frozenset[str]) -> Reading:
        """Where these characters are words by themselves, as in 水 for 水车, not halves of pairs."""

        def alone(units: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text if text in characters else unit for text, unit in zip(self.texts, units, strict=True))

        return self._replace(roots=alone(self.roots), content=alone(self.content))


_Row = tuple[str, str, str, str, bool, bool, bool]  # the columns of one word
NOTHING = Reading((), (), (), (), (), (), ())


def read(text: str, *, most: int | None = None, other: bool | None = None) -> Reading:
    """The words of a text in order, of `most` blank-separated ones at most, and of 100 characters for each of these.

    `other` says whether it is read as a text in other than Latin letters; None looks at the text. An answer is read as
    its question and gold are, so that a stray character in English changes nothing.

    >>> found = read("He saw Dr. Smith. Then,\\nafter 2.5 million years, nothing.")
    >>> found.texts[6:8], found.starts()
    (('2500000', 'years'), [0, 4, 5])
    """
    if most is not None:
        text = text[: most * LONGEST_WORD]
    if "\n" in text:
        text = text.replace("\n", "¶ ")  # a new line ends a sentence as a full stop does
    if "per cent" in text:
        text = text.replace("per cent", "percent")
    if other is None:
        other = is_other(text)
    if other:
        text = with_plain_marks(text)
    if other and is_unspaced(text):
        rows = _unspaced_rows(text)[:most]
    else:
        tokens = _OTHER_TOKENS if other else _TOKENS
        rows = list(chain.from_iterable(map(tokens.__getitem__, text.split()[:most])))
    if not rows:
        return NOTHING
    found = Reading(*zip(*rows))  # noqa: B905 - every row has all columns
    return found if SCALES.keys().isdisjoint(found.texts) else Reading(*zip(*_scaled(rows), strict=True))


def root(word: str, *, other: bool = False) -> str:
    """What is left of a folded word to be compared. Four letters are marked so that they never equal a whole word."""
    if other and is_other(word):
        return stem(word)
    short = english_stem(word)
    return f"{short[:4]}~" if len(short) > 4 and short.isalpha() else short


class _Tokens(dict[str, "tuple[_Row, ...]"]):
    """Tokens that were read, up to a number; a look-up costs a third of one in an `lru_cache`."""

    def __init__(self, *, other: bool) -> None:
        super().__init__()
        self.other = other

    def __missing__(self, token: str) -> tuple[_Row, ...]:
        rows = _read_token(token, other=self.other)
        if len(token) <= LONGEST_WORD:
            if len(self) >= 1 << 16:
                self.clear()
            self[token] = rows
        return rows


_TOKENS = _Tokens(other=False)
_OTHER_TOKENS = _Tokens(other=True)


def _read_token(token: str, *, other: bool) -> tuple[_Row, ...]:
    """The rows of the words in a token, usually one."""
    words = other_words if other else latin_words
    is_initial = ends = False
    plain = token.rstrip(".,;:!?")
    if plain.isalpha() and len(plain) > 4:  # most are, and need no regular expressions
        found, is_name, ends = words(plain), plain[0].isupper(), token[-1] in ".!?"
    else:
        initials = _INITIALS.fullmatch(token)
        found = words(initials[1].replace(".", "") if initials else token)
        first = _FIRST_LETTER.search(token)
        is_name = bool(first) and first[0].isupper()
        is_initial = bool(_INITIAL.fullmatch(token))
        ends = not initials and not _ABBREVIATION.fullmatch(token) and bool(_SENTENCE_END.search(token))
    last = len(found) - 1
    return tuple(_row(word, is_name, is_initial, ends and place == last, other) for place, word in enumerate(found))


def _row(word: str, is_name: bool, is_initial: bool, ends: bool, other: bool) -> _Row:
    short = root(word, other=other)
    is_stop = is_stop_word(word) if other else word in STOP_WORDS
    content = "" if is_initial or is_stop else short
    plain = "" if word in ARTICLES else f"{word} "
    tells_a_number = word[0].isdigit() or word in MONTHS or word in MULTIPLES
    return word, short, content, plain, is_name, tells_a_number, ends


def _unspaced_rows(text: str) -> list[_Row]:
    """The rows of a text with characters that no blanks part; what it has of other words is read as ever."""
    text = normalised("NFKC", text)
    rows: list[_Row] = []
    before = ""
    for in_run, piece in pieces(text):
        if not in_run:
            found = _OTHER_TOKENS[piece]
            if not found and rows and _SENTENCE_END.search(f"a{piece}"):
                rows[-1] = (*rows[-1][:-1], True)
            rows += found
        else:
            characters = clusters(fold(piece))
            skipped = counts(piece, after=before)
            roots = [*characters[:skipped], *pairs(characters[skipped:])]
            for place, (character, root) in enumerate(zip(characters, roots, strict=True)):
                content = "" if place < skipped or is_grammar(root) else root
                rows.append((character, root, content, f"{character} ", False, False, False))
        before = piece
    return rows


def _scaled(rows: list[_Row]) -> list[_Row]:
    """With every number and the scale that follows it as one number."""
    joined: list[_Row] = []
    for row in rows:
        before = joined[-1] if joined else None
        if before is not None and row[0] in SCALES and (value := number(before[0])) is not None:
            text = f"{value * SCALES[row[0]]:.12g}"
            joined[-1] = (text, text, text, f"{text} ", before[4], True, row[6])
        else:
            joined.append(row)
    return joined


def number(text: str) -> float | None:
    """The value of a folded number."""
    try:
        return float(text) if text[0].isdigit() else None
    except ValueError:  # digits of scripts that float does not read
        return None
