"""Question and gold taken apart, once for all the answers to a question: what an answer has to hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from seal_lightning.grading.quantities import Period, Quantity, number_places, periods, quantities
from seal_lightning.grading.reading import Reading, read, root
from seal_lightning.grading.words import ARTICLES, stem

NEGATIONS = frozenset("not no never none neither nor without cannot nothing nobody".split())
_ROUGHLY = "about approximately around over nearly almost roughly more less than least most up some only just exactly"
_TITLES = "mr mrs ms dr sir king queen president general major captain lord prince emperor saint st early late mid"
_UNITS = """
second minute hour day week month year decade century centuries millennium ad bc ce bce percent dollar euro pound people
inhabitant metre meter kilometre kilometer mile foot feet inch square ton tonne hundred thousand million billion degree
"""
_WEAK = frozenset(stem(word) for word in f"{_ROUGHLY} {_TITLES}".split())
_UNIT_STEMS = frozenset(stem(word) for word in _UNITS.split())
_BETWEEN_ITEMS = re.compile(r",|;|\band\b|\bor\b|&")
_BETWEEN_ALTERNATIVES = re.compile(r"\bor\b|[()/;]")
_ASKS_NUMBER = re.compile(r"\b(how (many|much|long|old|far)|when|(what|which) (percent\w*|number|year|date|century))\b")
_ASKS_YES_OR_NO = re.compile(r"(is|are|was|were|do|does|did|can|could|has|have|had|will|would|should)\b")


class Expected(NamedTuple):
    """What was asked for: how hard the gold is to say."""

    gold_words: float
    new_words: float
    gold_names: float  # share of the gold's words with a capital
    new_names: float  # how many of the new words are names
    gold_numbers: float
    is_list: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """Question and gold, taken apart."""

    given: frozenset[str]  # stems of the question's content words
    all_given: frozenset[str]  # of all its words
    content: tuple[str, ...]  # stems of the gold's content words
    new: tuple[str, ...]  # stems of those not in the question; all of them where the question has them all
    core: tuple[str, ...]  # roots of the new ones without "about", "more than", titles
    key: tuple[str, ...]  # roots of the numbers where a number is asked for, else as `core`
    unitless: tuple[str, ...]  # `core` without words of time, measure and number
    names: frozenset[str]  # stems of the new words that have a capital
    items: tuple[tuple[str, ...], ...]  # of a list, the stems of each item's new words
    alternatives: tuple[tuple[str, ...], ...]  # the same of what "or" and brackets separate
    roots: frozenset[str]  # of all content words
    phrase: str
    numbers: tuple[Quantity, ...]
    given_values: frozenset[float]
    period: Period | None
    given_periods: frozenset[Period]
    is_negated: bool
    polarity: float  # 1 yes, -1 no; 0 where the question asks for something else
    shape: Expected


@lru_cache(maxsize=1 << 14)
def expect(question: str, gold: str) -> Expectation:
    """What an answer to the question has to hold if the gold is right."""
    asked, wanted = read(question), read(gold)
    given = frozenset(_content(asked))
    content = _unique(_content(wanted)) or _unique(wanted.stems) or ("",)
    new = _unique(word for word in content if word not in given) or content
    core = _unique(word for word in new if word not in _WEAK) or new
    figures = _unique(word for word in core if word[:1].isdigit())
    capitals = {stem for stem, is_name in zip(wanted.stems, wanted.names, strict=True) if is_name}
    names = frozenset(word for word in new if word in capitals)
    items = _parts(_BETWEEN_ITEMS, gold, given) or (new,)
    given_values = frozenset(found.value for found in _quantities(asked))
    numbers = _quantities(wanted)
    given_periods = frozenset(_periods(asked))
    years = _periods(wanted)
    return Expectation(
        given=given,
        all_given=frozenset(asked.stems),
        content=content,
        new=new,
        core=_roots(core),
        key=_roots(figures if figures and _ASKS_NUMBER.search(question.lower()) else core),
        unitless=_roots(word for word in core if word not in _UNIT_STEMS) or _roots(core),
        names=names,
        items=items,
        alternatives=tuple(map(_roots, _parts(_BETWEEN_ALTERNATIVES, gold, given))) or (_roots(core),),
        roots=frozenset(root(word) for word in content),
        phrase=" ".join(text for text in wanted.texts if text not in ARTICLES) or " ".join(wanted.texts),
        numbers=tuple(found for found in numbers if found.value not in given_values) or tuple(numbers),
        given_values=given_values,
        period=Period(min(each.first for each in years), max(each.last for each in years)) if years else None,
        given_periods=given_periods,
        is_negated=negated(wanted.texts),
        polarity=_polarity(question, wanted),
        shape=Expected(
            gold_words=len(wanted.texts),
            new_words=len(new),
            gold_names=sum(wanted.names) / max(1, len(wanted.names)),
            new_names=len(names),
            gold_numbers=len(numbers),
            is_list=float(bool(_BETWEEN_ITEMS.search(gold))),
        ),
    )


def negated(texts: Sequence[str]) -> bool:
    """Whether folded words deny something; "didn't" is folded to "didnt"."""
    return not NEGATIONS.isdisjoint(texts) or any(text.endswith("nt") and text in _CONTRACTED for text in texts)


_CONTRACTED = frozenset(
    "isnt arent wasnt werent dont doesnt didnt cant couldnt hasnt havent hadnt wont wouldnt".split()
)


def polarity_of(texts: Sequence[str]) -> float:
    """1 for texts that open with yes, -1 for no, else 0."""
    return {"yes": 1.0, "no": -1.0}.get(texts[0], 0.0) if texts else 0.0


def _polarity(question: str, wanted: Reading) -> float:
    if said := polarity_of(wanted.texts):
        return said
    if not _ASKS_YES_OR_NO.match(question.lower()) or " or " in question:
        return 0.0
    return -1.0 if negated(wanted.texts) else 1.0


def _content(reading: Reading) -> list[str]:
    return [stem for stem, is_stop in zip(reading.stems, reading.stops, strict=True) if not is_stop]


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _roots(words: Iterable[str]) -> tuple[str, ...]:
    return _unique(root(word) for word in words)


def _parts(between: re.Pattern[str], gold: str, given: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    """The new content words of each part of a gold, without parts that have none."""
    parts = [_unique(word for word in _content(read(part)) if word not in given) for part in between.split(gold)]
    return tuple(part for part in parts if part)


def _quantities(reading: Reading) -> list[Quantity]:
    return quantities(reading.texts, number_places(reading.texts))


def _periods(reading: Reading) -> list[Period]:
    return periods(reading.texts, number_places(reading.texts))
