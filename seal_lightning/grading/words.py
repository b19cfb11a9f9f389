"""Text to comparable words: the ground on which the lexical graders stand.

Case, accents, punctuation, possessives and the spelling of numbers are folded; `stem` also folds common endings. This
is for English with a light hand: no dictionary, no language model, so a synonym stays a different word.
"""

from __future__ import annotations

import re
import unicodedata

_UNITS = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINAL_UNITS = "first second third fourth fifth sixth seventh eighth ninth"
_ORDINAL_TEENS = "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
_ORDINAL_TENS = "twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth"
_STOP_WORDS = """
of in on at to for from by with and or as is are was were be been being it its this that these those their his her he
she they them him i we you your our who whom whose which what when where why how do does did has have had if but than
then so such into about over after before between during through can could will would should may might also there
"""


def _count(names: str, *, start: int, step: int = 1) -> dict[str, int]:
    return {name: start + step * place for place, name in enumerate(names.split())}


_NUMBERS = {
    "zero": 0,
    **_count(f"{_UNITS} {_TEENS}", start=1),
    **_count(f"{_ORDINAL_UNITS} {_ORDINAL_TEENS}", start=1),
    **_count(_TENS, start=20, step=10),
    **_count(_ORDINAL_TENS, start=20, step=10),
}
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS.split())})[-\s]({'|'.join(f'{_UNITS} {_ORDINAL_UNITS}'.split())})\b")
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_POSSESSIVE = re.compile(r"'s\b")
_ORDINAL_ENDING = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc`\u00b4", "'"))
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "es", "ed", "s", "ly", "e", "y")

ARTICLES = frozenset({"a", "an", "the"})
STOP_WORDS = ARTICLES.union(_STOP_WORDS.split())


def words(text: str) -> list[str]:
    """The words of a text in order, folded so that equal ones compare equal.

    >>> words("The King's 1,000 soldiers, twenty-one of them from Orléans")
    ['the', 'king', '1000', 'soldiers', '21', 'of', 'them', 'from', 'orleans']
    """
    if text.isascii():
        if text.isalpha():  # one plain word: nothing to take apart
            return [str(_NUMBERS.get(text.lower(), text.lower()))]
        text = text.replace("`", "'").lower()
    else:
        text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).casefold()
        text = "".join(character for character in text if not unicodedata.combining(character))
    text = _POSSESSIVE.sub("", text).replace("'", "").replace("%", " percent ")
    text = _ORDINAL_ENDING.sub("", _THOUSANDS.sub("", text))
    text = _COMPOUND.sub(lambda pair: str(_NUMBERS[pair[1]] + _NUMBERS[pair[2]]), text)
    return [str(_NUMBERS.get(word, word)) for word in _WORD.findall(text)]


def stem(word: str) -> str:
    """The word without one common English ending, when at least three characters stay.

    >>> [stem(word) for word in ("armies", "army", "founded", "founds", "1945", "gas")]
    ['arm', 'arm', 'found', 'found', '1945', 'gas']
    """
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def content_words(text: str) -> set[str]:
    """The stems of the words that are not stop words."""
    return {stem(word) for word in words(text) if word not in STOP_WORDS}
