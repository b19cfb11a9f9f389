"""What Unicode knows about writing: which scripts have no spaces, what ends a question or a sentence.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no blanks between words, and telling words apart there takes a
dictionary. Here each character stands for itself, as in the evaluation of such questions elsewhere (MLQA, DRCD), and
pairs of neighbours stand for words, as in search engines. Graders and filters of queries take both from here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import regex  # scripts and other properties, which the standard library does not know

# Line breaking class SA ("complex context"): Thai, Lao, Khmer, Burmese, Tai scripts.
_COMPLEX = r"[\p{lb=SA}&&[\p{L}\p{M}]]"
_EAST_ASIAN = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\u30fc&&[\p{L}\p{Nl}]]"
_UNSPACED_LETTER = f"(?:{_EAST_ASIAN}|{_COMPLEX})"
UNSPACED = regex.compile(_UNSPACED_LETTER, regex.V1)
_HANGUL = regex.compile(r"\p{Hangul}")
_RUN = (
    r"[\p{Han}&&[\p{L}\p{Nl}]]+|[\p{Hiragana}\u30fc&&\p{L}]+|[\p{Katakana}\u30fc&&\p{L}]+|[\p{Bopomofo}&&\p{L}]+"
    rf"|[\p{{Yi}}&&\p{{L}}]+|{_COMPLEX}+"
)
_PIECE = regex.compile(rf"(?P<run>{_RUN})|(?P<rest>(?:(?!{_UNSPACED_LETTER})\S)+)", regex.V1)
_CLUSTER = regex.compile(r"\X")
_HAN = regex.compile(r"\p{Han}+")
_HIRAGANA = regex.compile(r"[\p{Hiragana}\u30fc]+")
# Chinese characters that are mostly grammar.
_GRAMMAR = frozenset("的了是在由于於和与與被把为為之其这這那也都就而或及着吗嗎呢吧啊們们")

_OTHER = regex.compile(
    r"[[\p{L}--[\p{Latin}\p{Common}\p{Inherited}]][\p{M}--\p{Inherited}][\p{Nd}--[0-9]]"
    r"\u3000-\u303f\uff01-\uff60\u060c\u061b\u061f\u00ab\u00bb\u201a\u201e\u2039\u203a]",
    regex.V1,
)
_NOT_LATIN = regex.compile(r"[\p{L}--[\p{Latin}\p{Common}\p{Inherited}]]", regex.V1)
# Vowel signs and tone marks are letters in Thai or Hindi; accents and the points of Arabic and Hebrew are not.
_MARKS = regex.compile(
    r"[[\p{Mn}&&[\p{Inherited}\p{Arabic}\p{Hebrew}\p{Syriac}\p{Latin}\p{Greek}\p{Cyrillic}]]--[\u3099\u309a]]", regex.V1
)
_MOST_MARKS = 30  # on one letter: more than any language has
_MARK_RUN = regex.compile(rf"[\p{{M}}\uff9e\uff9f]{{{_MOST_MARKS}}}")
_INVISIBLE = regex.compile(r"[\u00ad\u0640\u200d\u2060\ufeff]|(?<=\p{M})\u200c")  # also Arabic's tatweel
_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]")
_WORD = regex.compile(
    rf"\d+(?:\.\d+)?|{_UNSPACED_LETTER}\p{{M}}*|(?:(?!{_UNSPACED_LETTER})[\p{{L}}\p{{N}}--\p{{Nd}}]\p{{M}}*)+", regex.V1
)

_QUESTION_MARKS = "?\u037e\u055e\u061f\u1367\u1945\u203d\u2cfa\u2cfb\u2e2e\u2e54\ua60f\ua6f7\U00011143\U0001e95f"
_QUESTION_ORNAMENTS = "\u2753\u2754\U0001f679\U0001f67a\U0001f67b\U0001fbc4"
_CLOSER = rf"[\s\p{{Pe}}\p{{Pf}}\p{{Pi}}\"'*_\ufe0f[\p{{STerm}}--[{_QUESTION_MARKS}{_QUESTION_ORNAMENTS}]]]"
_CLOSERS = regex.compile(rf"(?<!{_CLOSER}){_CLOSER}++$", regex.V1)  # looked for where a run begins, not within it
_WITHOUT_MARK = regex.compile(rf"(?:{_COMPLEX}|\p{{Tibetan}})\p{{M}}*$", regex.V1)
_SPOKEN_MARK = regex.compile(r"(?:[\p{Hiragana}\p{Katakana}\p{Han}](?:か|かい)|[\p{Han}](?:吗|嗎|呢|么|麼))$")
_SENTENCE_MARK = regex.compile(r"[\p{STerm}--[.!?\u2000-\u206f]]", regex.V1)
_SEPARATOR = str.maketrans(dict.fromkeys("、，،﹐､；؛、", ","))


def is_unspaced(text: str) -> bool:
    """Whether some of a text is in a script without blanks between words."""
    return not text.isascii() and UNSPACED.search(text) is not None


def is_other(text: str) -> bool:
    """Whether a text has letters, digits or punctuation that no language in Latin letters has."""
    return not text.isascii() and _OTHER.search(text) is not None


def has_other_letters(text: str) -> bool:
    """Whether there is a letter that is not Latin.

    >>> [has_other_letters(text) for text in ("Orléans, “1803”", "Москва", "水車", "２０")]
    [False, True, True, False]
    """
    return not text.isascii() and _NOT_LATIN.search(text) is not None


def normalised(form: Literal["NFC", "NFKC", "NFKD"], text: str) -> str:
    """The text in a normal form of Unicode, in time proportional to its length.

    Marks above and below letters are put in order, which takes time with the square of how many follow one letter; so
    a joiner that is not seen parts longer runs (the Stream-Safe Text Format, Unicode Standard Annex 15).
    """
    return unicodedata.normalize(form, text if text.isascii() else _MARK_RUN.sub("\\g<0>\u034f", text))


def fold(text: str) -> str:
    """A text of any script without case, accents, vowel points and other forms of the same letter or digit.

    >>> [fold(text) for text in ("ＮＡＳＡ１２", "أَحْمَد", "がっこう", "ﾊﾟﾝ", "١٢", "Андрей Ёлкин")]
    ['nasa12', 'احمد', 'がっこう', 'パン', '12', 'андреи елкин']
    """
    text = normalised("NFKD", text).casefold()
    text = normalised("NFC", _INVISIBLE.sub("", _MARKS.sub("", text)))
    return _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


def split_words(folded: str) -> list[str]:
    """The words of a folded text; in scripts without blanks its characters.

    >>> split_words("iphone手机 1803年 दिल्ली")
    ['iphone', '手', '机', '1803', '年', 'दिल्ली']
    """
    return _WORD.findall(folded)


def with_plain_marks(text: str) -> str:
    """With a full stop for what ends a sentence in other scripts, and commas for what parts items there."""
    return _SENTENCE_MARK.sub(". ", text.translate(_SEPARATOR))


def spaced(text: str, *, syllables: bool = False) -> str:
    """A text for graders that look for blanks: every character of a script without them is a word of its own.

    Punctuation becomes a blank. `syllables` also takes Korean apart, as KorQuAD's token F1 does.

    >>> spaced("桥是「李明」造的。"), spaced("서울에서", syllables=True)
    ('桥 是 李 明 造 的', '서 울 에 서')
    """
    text = _PUNCTUATION.sub(" ", normalised("NFKC", text))
    words = [word for piece in text.split() for word in _WORD.findall(fold(piece))]
    if syllables:
        words = [part for word in words for part in (word if _HANGUL.search(word) else [word])]
    return " ".join(words)


def pieces(text: str) -> Iterator[tuple[bool, str]]:
    """What a text without blanks consists of: runs of one script (True), and what is between them (False)."""
    for found in _PIECE.finditer(text):
        yield found["run"] is not None, found[0]


def clusters(run: str) -> list[str]:
    """The characters of a run as a reader counts them: a letter with its vowel signs and tones."""
    return _CLUSTER.findall(run)


def pairs(characters: list[str]) -> list[str]:
    """For each character of a run the pair that it begins, the last one's being the one before; one alone is itself.

    >>> pairs(list("造桥人")), pairs(["水"])
    (['造桥', '桥人', '桥人'], ['水'])
    """
    if len(characters) < 2:
        return list(characters)
    found = [first + second for first, second in pairwise(characters)]
    return [*found, found[-1]]


def is_short_word(word: str) -> bool:
    """Whether a word of one or two letters says little: in alphabets, where it is neither a name nor a noun.

    In Korean two syllables are a word as any, and so are two characters of a script without blanks.
    """
    return has_other_letters(word) and not is_unspaced(word) and _HANGUL.search(word) is None


def counts(run: str, *, after: str) -> bool:
    """Whether a run of characters begins with the one that says what the number before it counts: 1803年, 3人.

    >>> counts("年造", after="1803"), counts("คน", after="5"), counts("年", after="")
    (True, False, False)
    """
    return after[-1:].isdigit() and _HAN.match(run) is not None


def is_grammar(unit: str) -> bool:
    """Whether a character or pair is mostly grammar: Chinese particles, Japanese in hiragana."""
    return not _GRAMMAR.isdisjoint(unit) or _HIRAGANA.fullmatch(unit) is not None


def count_words(text: str) -> int:
    """About how many words a text has: two characters make one where there are no blanks.

    >>> [count_words(text) for text in ("two words", "中华人民共和国", "iPhone手机")]
    [2, 4, 2]
    """
    if not is_unspaced(text):
        return len(text.split())
    words = split_words(fold(text))
    single = sum(UNSPACED.match(word) is not None for word in words)
    return len(words) - single + (single + 1) // 2


def asks(question: str) -> bool:
    """Whether a text ends as a question does in its language.

    Any question mark will do, also within closing quotes; Greek's may be a semicolon, Armenian's stands in the word
    that asks. Japanese may end in か, Chinese in 吗 or 呢; Thai, Lao, Khmer, Burmese and Tibetan need no mark.

    >>> [asks(text) for text in ("谁造了桥？", "من بنى الجسر؟", "誰ですか。", "ใครสร้างสะพาน", "Ποιος;", "No.", "桥。")]
    [True, True, True, True, True, False, False]
    """
    # Greek's own mark would become a semicolon
    bare = _CLOSERS.sub("", normalised("NFKC", question.replace("\u037e", "?")))
    if bare.endswith(tuple(_QUESTION_MARKS + _QUESTION_ORNAMENTS)):
        return True
    if bare.endswith(";"):
        return regex.search(r"\p{Greek}", bare) is not None
    if "\u055e" in bare:
        return True
    return _WITHOUT_MARK.search(bare[-_MOST_MARKS:]) is not None or _SPOKEN_MARK.search(bare) is not None
