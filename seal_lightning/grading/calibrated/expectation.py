"""Question and gold taken apart, once for all the answers to a question: what an answer has to hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from seal_lightning.grading.calibrated.quantities import ABOVE, BELOW, ROUGHLY, Period, periods, quantities, room
from seal_lightning.grading.calibrated.reading import Reading, read, root
from seal_lightning.grading.scripts import is_other, is_unspaced

_ENGLISH_NEGATIONS = (
    "not no never none neither nor without cannot nothing nobody isnt arent wasnt werent dont doesnt didnt cant "
    "couldnt hasnt havent hadnt wont wouldnt"
)
# In other letters, as `scripts.fold` leaves them; of scripts without blanks, characters that negate.
_OTHER_NEGATIONS = "不 没 沒 не нет لا ليس لم לא אין 아니 아니다 안 못 δεν οχι नहीं"
_NEGATIONS = frozenset(f"{_ENGLISH_NEGATIONS} {_OTHER_NEGATIONS}".split())
_OPTIONAL = """
mr mrs ms dr sir lord king queen prince princess emperor duke archduke count earl pope bishop saint st president
minister senator general major captain colonel lieutenant professor early late mid ad bc bce ce
"""
_WEAK = frozenset(root(word) for word in {*_OPTIONAL.split(), *ROUGHLY, *ABOVE, *BELOW, "most", "up", "only", "just"})
LONGEST = 20_000  # characters of a question or gold
_LONGEST_RUN = 8  # words of a gold that are looked for side by side
_WITH_RUNS = 64  # words of a gold of which runs are made
_BRACKET = re.compile(r"(?<!\s)\s*+[(\uff08][^()\uff08\uff09]*[)\uff09]?")
_BETWEEN_ITEMS = re.compile(r",|;|\band\b|\bor\b|&|[、，､،؛；]")
_BETWEEN_ALTERNATIVES = re.compile(r"\bor\b|[()/;（）／；؛]")
_ASKS_NUMBER = re.compile(r"\b(how (many|much|long|old|far)|when|(what|which) (percent\w*|number|year|date|century))\b")
_ASKS_YES_OR_NO = re.compile(r"(is|are|was|were|do|does|did|can|could|has|have|had|will|would|should)\b")


class Expected(NamedTuple):
    """How much the gold says."""

    gold_words: float
    gold_names: float  # how many of the new words are names
    nothing_new: float  # the question has all of its content words


class WantedNumber(NamedTuple):
    """A number of the gold, its root, and from where to where another one is as good."""

    value: float
    kind: str
    text: str
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """Question and gold, taken apart, all words as the roots of `reading`. "New" are content words that the question
    does not have; where it has them all, all of them."""

    asked: frozenset[str]  # all the question's words
    given: frozenset[str]  # its content words, and ""
    roots: frozenset[str]  # the gold's content words
    core: frozenset[str]  # the new ones without "about", "more than", titles, eras
    key: frozenset[str]  # of these the numbers where a number is asked for, else all
    last: frozenset[str]  # of these the last; without blanks the last pairs of its run, since one says too little
    whole: tuple[frozenset[str], ...]  # runs of three or four characters, the size of names: all or nothing
    single: frozenset[str]  # of these the single characters of a script without blanks
    items: tuple[frozenset[str], ...]  # of a list, each item's new words
    is_list: bool
    alternatives: tuple[frozenset[str], ...]  # what "or" and brackets separate
    phrase: str  # the gold to compare by letters
    runs: tuple[tuple[float, tuple[str, ...]], ...]  # its words side by side: share of the gold, runs that long
    names: frozenset[str]  # those of the core that are names
    is_unspaced: bool  # whether it has characters of a script without blanks
    numbers: tuple[WantedNumber, ...]  # but those that the question gives, where there are others
    given_values: frozenset[float]
    period: Period | None
    given_periods: frozenset[Period]
    timing: frozenset[str]  # the words of a gold that tells a period longer than a year
    is_negated: bool
    polarity: float  # 1 yes, -1 no; 0 where the question asks for something else
    shape: Expected


def expect(question: str, gold: str) -> Expectation:
    """What an answer to the question has to hold if the gold is right. What stands in brackets need not be said.

    Of both the first 20,000 characters are read.
    """
    return _expect(question[:LONGEST], gold[:LONGEST])


@lru_cache(maxsize=1 << 14)
def _expect(question: str, gold: str) -> Expectation:
    other = is_other(question) or is_other(gold)
    asked, wanted = read(question, other=other), read(_BRACKET.sub("", gold).strip() or gold, other=other)
    given = frozenset({*asked.content, ""})
    content = tuple(dict.fromkeys(filter(None, wanted.content))) or wanted.roots or ("",)
    new = [word for word in content if word not in given] or content
    core = [word for word in new if word not in _WEAK] or new
    figures = [word for word in core if word[:1].isdigit()]
    capitals = frozenset(word for word, is_name in zip(wanted.roots, wanted.names, strict=True) if is_name)
    given_values = frozenset(found.value for found in quantities(asked))
    numbers = [
        WantedNumber(found.value, found.kind, wanted.roots[found.place], *room(found, wanted))
        for found in quantities(wanted)
    ]
    years = periods(wanted)
    period = Period(min(each.first for each in years), max(each.last for each in years)) if years else None
    return Expectation(
        asked=frozenset(asked.roots),
        given=given,
        roots=frozenset(content),
        core=frozenset(core),
        key=frozenset(figures if figures and _ASKS_NUMBER.search(question.lower()) else core),
        last=frozenset(_runs(core)[-1][-3:]),
        whole=tuple(frozenset(run) for run in _runs(core) if 2 <= len(run) <= 3),
        single=frozenset(word for word in core if len(word) == 1 and is_unspaced(word)),
        items=_parts(_BETWEEN_ITEMS, gold, given, other) or (frozenset(new),),
        is_list=bool(_BETWEEN_ITEMS.search(gold)),
        alternatives=_parts(_BETWEEN_ALTERNATIVES, gold, given, other) or (frozenset(core),),
        runs=_side_by_side(wanted.roots),
        names=capitals.intersection(core),
        phrase="".join(wanted.plain) or "".join(f"{text} " for text in wanted.texts),
        is_unspaced=other and is_unspaced(gold),
        numbers=tuple(found for found in numbers if found.value not in given_values) or tuple(numbers),
        given_values=given_values,
        period=period,
        given_periods=frozenset(periods(asked)),
        timing=frozenset(content) if period and period.last > period.first else frozenset(),
        is_negated=negated(wanted.texts),
        polarity=_polarity(question, wanted),
        shape=Expected(
            gold_words=len(wanted.texts),
            gold_names=len(capitals.intersection(new)),
            nothing_new=given.issuperset(content),
        ),
    )


def negated(texts: Sequence[str]) -> bool:
    """Whether folded words deny something."""
    return not _NEGATIONS.isdisjoint(texts)


def polarity_of(texts: Sequence[str]) -> float:
    """1 for texts that open with yes, -1 for no, else 0."""
    return {"yes": 1.0, "no": -1.0}.get(texts[0], 0.0) if texts else 0.0


def _polarity(question: str, wanted: Reading) -> float:
    if said := polarity_of(wanted.texts):
        return said
    if not _ASKS_YES_OR_NO.match(question.lower()) or " or " in question:
        return 0.0
    return -1.0 if negated(wanted.texts) else 1.0


def _side_by_side(roots: Sequence[str]) -> tuple[tuple[float, tuple[str, ...]], ...]:
    """Runs of words, of eight words at most: the longest first, each with a blank before and after every word."""
    roots = roots[:_WITH_RUNS]
    most = min(len(roots), _LONGEST_RUN)
    return tuple(
        (length / most, tuple(f" {' '.join(roots[at : at + length])} " for at in range(len(roots) - length + 1)))
        for length in range(most, 0, -1)
    )


def _runs(core: Sequence[str]) -> list[list[str]]:
    """The words, each a list of its own; pairs of characters together where one goes on from the other."""
    runs: list[list[str]] = []
    for word in core:
        if runs and is_unspaced(word) and runs[-1][-1][1:] == word[:1]:
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


def _parts(between: re.Pattern[str], gold: str, given: frozenset[str], other: bool) -> tuple[frozenset[str], ...]:
    """The new content words of each part of a gold, without parts that have none."""
    parts = [frozenset(read(part, other=other).content) - given for part in between.split(gold)]
    return tuple(part for part in parts if part)
