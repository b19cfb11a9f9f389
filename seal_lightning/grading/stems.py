"""Stems of words that are not in Latin letters: endings and particles folded away, so that forms compare equal.

Snowball's stemmers where a script says the language well enough; Korean particles, Hebrew and Arabic prefixes by short
lists. A stem need not be a word, and both sides of a comparison go through the same function.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import regex
import snowballstemmer

_LANGUAGES = {script.upper(): script for script in ("arabic", "armenian", "greek", "tamil")}
_LANGUAGES |= {"CYRILLIC": "russian", "DEVANAGARI": "hindi"}
_stemmer = cache(snowballstemmer.stemmer)
_LEAST = 3  # letters that stay
_MOST = 100  # letters; anything longer is not a word and is kept whole, since endings are taken off one by one
_HEBREW_PREFIX = "ומשהכלב"
_ARABIC_PREFIX = ("وال", "بال", "فال", "كال", "لل", "ال", "و", "ب", "ف", "ل", "ك")
PARTICLES = """
은 는 이 가 을 를 의 에 에서 에게 에게서 께 께서 한테 으로 로 으로서 로서 으로써 로써 와 과 랑 이랑 도 만
까지 부터 보다 처럼 마다 조차 밖에 이나 나 라는 이라는 이다 다 입니다 이었다 였다 이었습니다 였습니다
이에요 예요 이야 야 이며 며 이고 고 라고 이라고 인 이란 란
""".split()
_PARTICLE = regex.compile(f"(?:{'|'.join(sorted(PARTICLES, key=len, reverse=True))})$")


@lru_cache(maxsize=1 << 16)
def stem_of(word: str) -> str:
    """The stem of a folded word.

    >>> [stem_of(word) for word in ("москве", "москва", "서울에서", "서울")]
    ['москв', 'москв', '서울', '서울']
    >>> [stem_of(word) for word in ("בירושלים", "ירושלים", "القاهرة", "بالقاهرة")]
    ['ירושלים', 'ירושלים', 'قاهر', 'قاهر']
    """
    script = script_of(word) if len(word) <= _MOST else ""
    if script == "HANGUL":
        while (found := _PARTICLE.search(word)) and found.start() >= 2:
            word = word[: found.start()]
        return word
    if script == "HEBREW":
        while len(word) > _LEAST and word[0] in _HEBREW_PREFIX:
            word = word[1:]
        return word
    if script == "ARABIC":
        # As often as it can be done: "in Beirut" and "Beirut", which itself begins as "in" does, end alike.
        while prefix := next((prefix for prefix in _ARABIC_PREFIX if word.startswith(prefix)), ""):
            if len(word) - len(prefix) < _LEAST:
                break
            word = word[len(prefix) :]
    language = _LANGUAGES.get(script)
    while language is not None and len(word) > _LEAST:  # "Petrov" ends as a case of "Petr" does: both get there
        shorter = _stemmer(language).stemWord(word)
        if not shorter or shorter == word:
            break
        word = shorter
    return word


def script_of(word: str) -> str:
    """The script of the first letter, as Unicode names it: CYRILLIC, HANGUL."""
    return unicodedata.name(word[0], "").partition(" ")[0] if word else ""


def begins_with_prefix(word: str, wanted: str) -> bool:
    """Whether a word is another one after Hebrew or Arabic prefixes: "in", "and", "the" are written together."""
    if len(wanted) < _LEAST or not word.endswith(wanted):
        return False
    before = word[: -len(wanted)]
    if script_of(word) == "HEBREW":
        return len(before) <= 3 and set(before) <= set(_HEBREW_PREFIX)
    return script_of(word) == "ARABIC" and before in {*_ARABIC_PREFIX, *(f"و{prefix}" for prefix in _ARABIC_PREFIX)}


def ends_with_particles(word: str, wanted: str) -> bool:
    """Whether a word is another one with Korean particles after it."""
    if not word.startswith(wanted) or script_of(word) != "HANGUL":
        return False
    rest = word[len(wanted) :]
    if len(rest) > _MOST:
        return False
    while rest and (found := _PARTICLE.search(rest)):
        rest = rest[: found.start()]
    return not rest
