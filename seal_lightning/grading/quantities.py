"""Numbers, dates and periods in a text, so that a grader can tell a missing number from a different one.

Only numbers of a kind contradict each other: a year another year, a percentage another percentage. A period (a century,
"the late 1970s") is an interval of years in which an answer's year may lie. English, and no more grammar than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MONTHS = dict(
    zip(
        "january february march april may june july august september october november december".split(),
        range(1, 13),
        strict=True,
    )
)
MULTIPLES = {"double": 2.0, "dual": 2.0, "twice": 2.0, "triple": 3.0, "single": 1.0, "once": 1.0, "dozen": 12.0}
SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_ERAS = {"bc": -1, "bce": -1, "ad": 1, "ce": 1}
_LONG = {"century": 100, "centuries": 100, "millennium": 1000, "millennia": 1000}
_PARTS = {
    "early": (0.0, 0.4),
    "beginning": (0.0, 0.4),
    "start": (0.0, 0.4),
    "mid": (0.3, 0.7),
    "middle": (0.3, 0.7),
    "late": (0.6, 1.0),
    "end": (0.6, 1.0),
}
_DIGITS = frozenset("0123456789")
_NAMED = MONTHS.keys() | MULTIPLES.keys()


class Quantity(NamedTuple):
    """A number and its kind: count, percent, year, day, month, century."""

    value: float
    kind: str
    place: int


class Period(NamedTuple):
    """Years from `first` to `last`, which are equal for a single year; years before Christ are negative."""

    first: float
    last: float


def number_places(texts: Sequence[str]) -> list[int]:
    """Where the folded words tell a number, a month or a multiple."""
    return [place for place, text in enumerate(texts) if text[0] in _DIGITS or text in _NAMED]


def quantities(texts: Sequence[str], places: Sequence[int]) -> list[Quantity]:
    """The numbers of folded words, scaled ("2 million") and by kind, in order.

    >>> texts = "50 percent of 2 million on 3 may 1945".split()
    >>> [(found.value, found.kind) for found in quantities(texts, number_places(texts))]
    [(50.0, 'percent'), (2000000.0, 'count'), (3.0, 'day'), (5.0, 'month'), (1945.0, 'year')]
    """
    found = []
    for place in places:
        text = texts[place]
        after = texts[place + 1] if place + 1 < len(texts) else ""
        before = texts[place - 1] if place else ""
        if text in MONTHS:
            if text not in ("march", "may") or before[:1].isdigit() or after[:1].isdigit():  # not a verb
                found.append(Quantity(float(MONTHS[text]), "month", place))
        elif text in MULTIPLES:
            found.append(Quantity(MULTIPLES[text], "count", place))
        elif (value := _number(text)) is not None:
            found.append(_quantity(value, text, before, after, place))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # digits of scripts that float does not read
        return None


def _quantity(value: float, text: str, before: str, after: str, place: int) -> Quantity:
    if after in SCALES:
        return Quantity(value * SCALES[after], "count", place)
    if after in _LONG:
        return Quantity(value, "century", place)
    if after in ("percent", "per"):
        return Quantity(value, "percent", place)
    if value <= 31 and (after in MONTHS or before in MONTHS):
        return Quantity(value, "day", place)
    return Quantity(value, "year" if _is_year(text) else "count", place)


def _is_year(text: str) -> bool:
    return len(text) == 4 and text.isdigit() and 1000 <= int(text) <= 2100


def periods(texts: Sequence[str], places: Sequence[int]) -> list[Period]:
    """The years, decades, centuries and millennia of folded words, in order.

    >>> texts = "from the late 1970 s or the 15 century to 900 bce".split()
    >>> [(round(found.first), round(found.last)) for found in periods(texts, number_places(texts))]
    [(1976, 1980), (1400, 1500), (-900, -900)]
    """
    found = []
    for place in places:
        text = texts[place]
        if not text.isdigit() or len(text) > 4:
            continue
        after = texts[place + 1] if place + 1 < len(texts) else ""
        value = int(text)
        if after in _LONG:
            length = _LONG[after]
            era = _ERAS.get(texts[place + 2], 1) if place + 2 < len(texts) else 1
            first, last = _part(texts[max(0, place - 4) : place], (value - 1.0) * length, float(value * length))
            found.append(Period(first, last) if era > 0 else Period(-last, -first))
        elif after in _ERAS:
            found.append(Period(float(value * _ERAS[after]), float(value * _ERAS[after])))
        elif _is_year(text):
            length = (100 if value % 100 == 0 and value < 1900 else 10) if after == "s" else 0
            found.append(Period(*_part(texts[max(0, place - 4) : place], float(value), float(value + length))))
    return found


def _part(before: Sequence[str], first: float, last: float) -> tuple[float, float]:
    """What "late" or "the second half of", before a period, leaves of it."""
    start, end = 0.0, 1.0
    for place, text in enumerate(before):
        if text in _PARTS:
            start, end = _PARTS[text]
        elif text == "half" and place and before[place - 1] in ("1", "2"):
            start, end = (0.0, 0.5) if before[place - 1] == "1" else (0.5, 1.0)
    return first + start * (last - first), first + end * (last - first)
