"""The words of a text by which it is found: stems without stop words, by language.

English and scripts other than Latin are taken as the graders have them. Ten more languages in Latin letters are told
apart by their stop words, and stemmed by Snowball. The language is that of a whole document; a question is read in the
language of the documents, and where these have several, in the one whose stop words it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache, lru_cache

import snowballstemmer

from seal_lightning.grading.words import STOP_WORDS, content_sequence, latin_words, words

ENGLISH = "english"
LANGUAGES = (
    "danish", "dutch", "french", "german", "italian", "norwegian", "portuguese", "spanish", "swedish", "turkish",
)  # fmt: skip
_ASKING = str.maketrans(dict.fromkeys("谁誰什甚么麼哪怎吗嗎呢", " "))  # which pairs of characters would take in
_BEGINNING = 4000  # characters that show a language


class Terms:
    """The words of documents and of questions about them.

    Args:
        documents: The documents' texts.

    Attributes:
        languages: The language of each document.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self.languages = [language_of(text, LANGUAGES) for text in documents]
        self._spoken = [language for language, _ in Counter(self.languages).most_common()] or [ENGLISH]

    def of_question(self, question: str) -> list[str]:
        """The words of a question that count."""
        return terms(question.translate(_ASKING), language_of(question, self._spoken))


def terms(text: str, language: str) -> list[str]:
    """The words of a text that count; all of them where none does, as in "Who is it?".

    >>> terms("Die Brücken im Dorf", "german"), terms("Who built the bridges?", "english")
    (['bruck', 'dorf'], ['built', 'bridg'])
    """
    if language == ENGLISH:
        return content_sequence(text) or words(text)
    found = latin_words(text)
    return [_stem(word, language) for word in found if word not in _stop_words(language)] or found


def language_of(text: str, languages: Collection[str]) -> str:
    """Which of some languages a text is in, by its stop words; the first of them where it has none.

    >>> [language_of(text, LANGUAGES) for text in ("Die Brücke ist alt.", "Qui a construit le pont ?", "Who is it?")]
    ['german', 'french', 'english']
    """
    found = latin_words(text[:_BEGINNING])
    known = list(dict.fromkeys([*languages, ENGLISH]))
    counts = {language: sum(word in _stop_words(language) for word in found) for language in known}
    best = max(known, key=counts.__getitem__)
    if counts[best]:
        return ENGLISH if counts[ENGLISH] == counts[best] else best
    return ENGLISH if languages is LANGUAGES else known[0]


@cache
def _stop_words(language: str) -> frozenset[str]:
    if language == ENGLISH:
        return STOP_WORDS
    from bm25s import stopwords  # with the index that needs it

    listed: tuple[str, ...] = getattr(stopwords, f"STOPWORDS_{language.upper()}")
    return frozenset(word for entry in listed for word in latin_words(entry))


@lru_cache(maxsize=1 << 16)
def _stem(word: str, language: str) -> str:
    return _stemmer(language).stemWord(word)


_stemmer = cache(snowballstemmer.stemmer)
