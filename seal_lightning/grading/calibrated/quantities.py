"""Numbers, dates and periods in a text, so that a grader can tell a missing number from a different one.

Only numbers of a kind contradict each other: a year another year, a percentage another percentage. A period (a century,
"the late 1970s") is an interval of years in which an answer's year may lie. English, and no more grammar than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from seal_lightning.grading.calibrated.reading import MONTHS, MULTIPLES, Reading, number

ROUGHLY = frozenset("about approximately around roughly nearly almost some circa estimated".split())
BELOW = frozenset("under below fewer less within".split())
ABOVE = frozenset("over above more exceeding exceeds least".split())
_NEAR = 0.05  # "about 50" is met by 47.5 to 52.5
_FAR = 0.25  # "over 40" by 40 to 50, "under 40" by 30 to 40
_ERAS = {"bc": -1, "bce": -1, "ad": 1, "ce": 1}
_DATED = {"年": "year", "년": "year", "月": "month", "월": "month", "日": "day", "号": "day", "號": "day", "일": "day"}
_LONG = {"century": 100, "centuries": 100, "millennium": 1000, "millennia": 1000}
_PARTS = {
    **dict.fromkeys(("early", "beginning", "start"), (0.0, 0.4)),
    **dict.fromkeys(("mid", "middle"), (0.3, 0.7)),
    **dict.fromkeys(("late", "end"), (0.6, 1.0)),
}


class Quantity(NamedTuple):
    """A number, its kind (count, percent, year, day, month, century) and the place of its word."""

    value: float
    kind: str
    place: int


class Period(NamedTuple):
    """Years from `first` to `last`, which are equal for a single year; years before Christ are negative."""

    first: float
    last: float


def quantities(reading: Reading) -> list[Quantity]:
    """The numbers of a text, in order.

    >>> from seal_lightning.grading.calibrated.reading import read
    >>> [(found.value, found.kind) for found in quantities(read("over 50% of 2 million on 3 May 1945"))]
    [(50.0, 'percent'), (2000000.0, 'count'), (3.0, 'day'), (5, 'month'), (1945.0, 'year')]
    """
    found = []
    texts = reading.texts
    for place in compress(range(len(texts)), reading.numbers):
        text = texts[place]
        before = texts[place - 1] if place else ""
        after = texts[place + 1] if place + 1 < len(texts) else ""
        if text in MONTHS:
            if text not in ("march", "may") or before[:1].isdigit() or after[:1].isdigit():  # not a verb
                found.append(Quantity(MONTHS[text], "month", place))
        elif text in MULTIPLES:
            found.append(Quantity(MULTIPLES[text], "count", place))
        elif (value := number(text)) is not None:
            found.append(Quantity(value, _kind(value, text, before, after), place))
    return found


def _kind(value: float, text: str, before: str, after: str) -> str:
    if after in _LONG:
        return "century"
    if after[:1] in _DATED:
        return _DATED[after[:1]]
    if after in ("percent", "per"):
        return "percent"
    if value <= 31 and (after in MONTHS or before in MONTHS):
        return "day"
    return "year" if _is_year(text) else "count"


def room(found: Quantity, reading: Reading) -> tuple[float, float]:
    """The lowest and highest value that the words before a number allow: "about 50", "over 40"."""
    value = found.value
    if found.kind in ("count", "percent"):
        before = reading.texts[max(0, found.place - 3) : found.place]
        if not BELOW.isdisjoint(before):
            return value * (1.0 - _FAR), value
        if not ABOVE.isdisjoint(before):
            return value, value * (1.0 + _FAR)
        if not ROUGHLY.isdisjoint(before):
            return value * (1.0 - _NEAR), value * (1.0 + _NEAR)
    return value, value


def _is_year(text: str) -> bool:
    return len(text) == 4 and text.isdigit() and 1000 <= int(text) <= 2100


def periods(reading: Reading) -> list[Period]:
    """The years, decades, centuries and millennia of a text, in order.

    >>> from seal_lightning.grading.calibrated.reading import read
    >>> found = periods(read("from the late 1970s or the 15th century to 900 BCE"))
    >>> [(round(each.first), round(each.last)) for each in found]
    [(1976, 1980), (1400, 1500), (-900, -900)]
    """
    found = []
    texts = reading.texts
    for place in compress(range(len(texts)), reading.numbers):
        text = texts[place]
        if not text.isdecimal() or len(text) > 4:
            continue
        after = texts[place + 1] if place + 1 < len(texts) else ""
        before = texts[max(0, place - 4) : place]
        value = int(text)
        if after in _LONG:
            length = _LONG[after]
            era = _ERAS.get(texts[place + 2], 1) if place + 2 < len(texts) else 1
            first, last = _part(before, (value - 1.0) * length, float(value * length))
            found.append(Period(first, last) if era > 0 else Period(-last, -first))
        elif after in _ERAS:
            found.append(Period(float(value * _ERAS[after]), float(value * _ERAS[after])))
        elif _is_year(text):
            length = (100 if value % 100 == 0 and value < 1900 else 10) if after == "s" else 0
            found.append(Period(*_part(before, float(value), float(value + length))))
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
