"""Text to comparable words: the ground on which the lexical graders stand.

Case, accents, punctuation, possessives and the spelling of numbers are folded; `stem` also folds common endings. This
is for English with a light hand: no dictionary, no language model, so a synonym stays a different word. What other
scripts need stands in `scripts` and `stems`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from seal_lightning.grading.scripts import (
    clusters,
    counts,
    fold,
    is_grammar,
    is_other,
    is_short_word,
    is_unspaced,
    normalised,
    pairs,
    pieces,
    split_words,
)
from seal_lightning.grading.stems import stem_of

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
    """The words of a text in order, folded so that equal ones compare equal; characters where no blanks part words.

    >>> words("The King's 1,000 soldiers, twenty-one of them from Orléans")
    ['the', 'king', '1000', 'soldiers', '21', 'of', 'them', 'from', 'orleans']
    >>> words("桥是李明1803年造的"), words("Это Ёлка")
    (['桥', '是', '李', '明', '1803', '年', '造', '的'], ['это', 'елка'])
    """
    return other_words(text) if is_other(text) else latin_words(text)


def other_words(text: str) -> list[str]:
    """The words of a text that has other letters."""
    return _plain_words(fold(text.translate(_APOSTROPHES)), split_words)


def latin_words(text: str) -> list[str]:
    """The words of a text read as English, whatever its letters."""
    if text.isascii():
        if text.isalpha():  # one plain word: nothing to take apart
            return [str(_NUMBERS.get(text.lower(), text.lower()))]
        text = text.replace("`", "'").lower()
    else:
        text = normalised("NFKD", text.translate(_APOSTROPHES)).casefold()
        text = "".join(character for character in text if not unicodedata.combining(character))
    return _plain_words(text, _WORD.findall)


def _plain_words(text: str, split: Callable[[str], list[str]]) -> list[str]:
    """The words of a text without case and accents."""
    text = _POSSESSIVE.sub("", text).replace("'", "").replace("%", " percent ")
    text = _ORDINAL_ENDING.sub("", _THOUSANDS.sub("", text))
    text = _COMPOUND.sub(lambda pair: str(_NUMBERS[pair[1]] + _NUMBERS[pair[2]]), text)
    return [str(_NUMBERS.get(word, word)) for word in split(text)]


def stem(word: str) -> str:
    """The word without one common English ending, when at least three characters stay.

    >>> [stem(word) for word in ("armies", "army", "founded", "founds", "1945", "gas")]
    ['arm', 'arm', 'found', 'found', '1945', 'gas']
    """
    return stem_of(word) if is_other(word) else english_stem(word)


def english_stem(word: str) -> str:
    """As `stem`, whatever its letters."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def content_words(text: str) -> set[str]:
    """The stems of the words that are not stop words; of texts without blanks the pairs of neighbouring characters.

    >>> sorted(content_words("李明在1803年造的水车"))
    ['1803', '李明', '水车']
    """
    return set(content_sequence(text))


def content_sequence(text: str) -> list[str]:
    """As `content_words`, in the order of the text, each as often as it is there.

    >>> content_sequence("The mill and the miller of Lenn mills")
    ['mill', 'miller', 'lenn', 'mill']
    """
    if is_unspaced(text):
        return [unit for unit in _pairs(text) if not is_stop_word(unit) and not is_grammar(unit)]
    return [stem(word) for word in words(text) if not is_stop_word(word)]


def is_stop_word(word: str) -> bool:
    """Of English the usual ones; in other alphabets those of one or two letters, which are prepositions and articles.

    >>> [is_stop_word(word) for word in ("the", "в", "το", "في", "москве", "서울", "水")]
    [True, True, True, True, False, False, False]
    """
    return word in STOP_WORDS or (len(word) <= 2 and not word.isascii() and is_short_word(word))


def all_words(text: str) -> set[str]:
    """The stems of all words; of texts without blanks the pairs, and single characters that stand alone."""
    return set(_pairs(text)) if is_unspaced(text) else {stem(word) for word in words(text)}


def said_words(text: str) -> set[str]:
    """What another text's words are looked up in: `all_words`, and every single character where there are no blanks."""
    found = {stem(word) for word in words(text)}
    return found.union(_pairs(text)) if is_unspaced(text) else found


def _pairs(text: str) -> list[str]:
    """Stems and pairs of characters, without the character that says what a number counts: 1803年."""
    units: list[str] = []
    before = ""
    for in_run, piece in pieces(fold(text)):
        if in_run:
            units += pairs(clusters(piece)[counts(piece, after=before) :])
        else:
            units += [stem(word) for word in words(piece)]
        before = piece
    return units
