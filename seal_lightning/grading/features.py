"""What the calibrated grader looks at: features of question, gold and answer, each a number with a name.

Lexical only: no language model and no dictionary, so a synonym stays a different word. The judge's question is whether
the answer makes the claim that the gold makes; the groups below ask for it from six sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz

from seal_lightning.grading.expectation import Expectation, Expected, negated, polarity_of
from seal_lightning.grading.quantities import Quantity, number_places, periods, quantities
from seal_lightning.grading.reading import Reading
from seal_lightning.grading.words import ARTICLES

SLACK = 2.0  # years by which an answer's year may miss a period
_CONTRASTS = frozenset("while but although however whereas though unlike instead rather despite except".split())


class Coverage(NamedTuple):
    """How much of the gold the answer holds."""

    words_found: float  # share of the gold's content words
    new_words_found: float  # share of those that the question does not give away; here a common beginning is enough
    key_words_found: float  # the same; of a number asked for, the numbers alone
    without_units: float  # the same without words of time, measure and number
    words_missing: float  # how many of the key words
    last_word_found: float  # the last new word: of a name the family name, of a phrase often its head
    names_found: float  # share of the gold's new words with a capital; a half where it has none
    alternative_found: float  # of "copper or arsenic", "Hayy (Philosophus)": the best alternative's share
    worst_item_found: float  # of a list the least covered item's share
    items_found: float  # of a list with "and" the share of items of which half is found
    in_first_sentence: float  # share of the new words found in the answer's first sentence
    same_phrase: float  # the gold's words occur in order and side by side
    similar_letters: float  # likeness of the gold to the answer's most similar part, letter by letter
    same_letters: float  # likeness of the whole texts


class Support(NamedTuple):
    """What the answer says beside the gold."""

    question_repeated: float  # share of the question's content words in the answer
    supported: float  # share of the answer's new content words that are the gold's
    supported_first: float  # the same of the first sentence
    other_words: float  # how many new content words are not the gold's
    other_names: float  # names in the first sentence that neither gold nor question has
    first_name: float  # 1: the first new name is one of the gold's; -1: it is another


class Place(NamedTuple):
    """Where and how the match stands, in the sentence that holds most of the gold."""

    sentence_repeats: float  # share of the question's content words in that sentence
    position: float  # words before the first match, from the start of the answer
    distance: float  # words between the match and the nearest content word of the question
    sentence_words: float  # length of that sentence
    words_after: float  # new content words after the match that are not the gold's
    words_within: float  # the same between the first and the last match
    to_the_end: float  # words after the last match
    contrast: float  # a "but", "while", "however" in that sentence
    goes_on: float  # "and" or "or" follows: the answer names more


class Numbers(NamedTuple):
    """Whether numbers agree; only those of a kind are compared, and not those the question gives."""

    numbers_found: float  # share of the gold's numbers; a half where it has none
    other_number: float  # how many of the gold's numbers meet only different ones of their kind
    first_number: float  # 1: the first number of the gold's kind is the gold's; -1: it is another
    closeness: float  # smaller over larger of gold's first count and the nearest one; -1 where nothing compares
    in_period: float  # 1: the answer's first year or period lies within the gold's
    years_off: float  # distance of the two in years, at most 100; -1 where nothing compares


class Polarity(NamedTuple):
    """Yes and no."""

    other_negation: float  # gold or answer is negated, the other is not
    opposite: float  # a question for yes or no: 1 the answer opens with the opposite of the gold, -1 with the same


NO_NUMBERS = Numbers(0.5, 0.0, 0.0, -1.0, 0.0, -1.0)
NUMBERS_MISSING = Numbers(0.0, 0.0, 0.0, -1.0, 0.0, -1.0)
GROUPS = (Coverage, Support, Place, Numbers, Polarity, Expected)
FEATURES: tuple[str, ...] = tuple(name for group in GROUPS for name in group._fields)


def measure(expected: Expectation, answer: Reading) -> tuple[float, ...]:
    """The features of an answer with at least one word, in the order of `FEATURES`."""
    end = answer.starts[1] if len(answer.starts) > 1 else len(answer.texts)
    new = _new_words(expected, answer)
    return (
        *_coverage(expected, answer, end),
        *_support(expected, answer, end, new),
        *_place(expected, answer, new),
        *_numbers(expected, answer),
        *_polarity(expected, answer),
        *expected.shape,
    )


def _new_words(expected: Expectation, answer: Reading) -> dict[int, bool]:
    """Places of the content words that the question does not give, and whether the gold has them."""
    given, known = expected.given, expected.roots
    return {
        place: root in known
        for place, (stem, root, is_stop) in enumerate(zip(answer.stems, answer.roots, answer.stops, strict=True))
        if not is_stop and stem not in given
    }


def _coverage(expected: Expectation, answer: Reading, end: int) -> tuple[float, ...]:
    found = {*answer.stems, *answer.roots}
    in_first = found if end == len(answer.stems) else set(answer.stems[:end])
    phrase, text = expected.phrase, " ".join([word for word in answer.texts if word not in ARTICLES])
    same_phrase = f" {phrase} " in f" {text} "
    items = [_share(item, found) for item in expected.items]
    missing = sum(root not in found for root in expected.key)
    return Coverage(
        words_found=_share(expected.content, found),
        new_words_found=_share(expected.core, found),
        key_words_found=1.0 - missing / len(expected.key),
        without_units=_share(expected.unitless, found),
        words_missing=missing,
        last_word_found=expected.core[-1] in found,
        names_found=_share(expected.names, found) if expected.names else 0.5,
        alternative_found=max(_share(words, found) for words in expected.alternatives),
        worst_item_found=min(items),
        items_found=sum(item >= 0.5 for item in items) / len(items) if expected.shape.is_list else 0.0,
        in_first_sentence=_share(expected.new, in_first),
        same_phrase=same_phrase,
        similar_letters=1.0 if same_phrase else fuzz.partial_ratio(phrase, text) / 100.0,
        same_letters=fuzz.ratio(phrase, text) / 100.0,
    )


def _share(wanted: Collection[str], found: Collection[str]) -> float:
    return sum([word in found for word in wanted]) / len(wanted)


def _support(expected: Expectation, answer: Reading, end: int, new: Mapping[int, bool]) -> tuple[float, ...]:
    first = [known for place, known in new.items() if place < end]
    names = _new_names(expected, answer)
    return Support(
        question_repeated=_share(expected.given, set(answer.stems)) if expected.given else 0.0,
        supported=sum(new.values()) / max(1, len(new)),
        supported_first=sum(first) / max(1, len(first)),
        other_words=len({answer.stems[place] for place, known in new.items() if not known}),
        other_names=len({answer.stems[place] for place in names if place < end and not new.get(place, True)}),
        first_name=_first_name(expected, answer, names),
    )


def _new_names(expected: Expectation, answer: Reading) -> list[int]:
    """Places of names that the question does not give; a capital that opens a sentence counts in the gold's names."""
    starts = set(answer.starts)
    return [
        place
        for place, is_name in enumerate(answer.names)
        if is_name
        and answer.stems[place] not in expected.all_given
        and (place not in starts or answer.stems[place] in expected.names)
    ]


def _first_name(expected: Expectation, answer: Reading, names: Sequence[int]) -> float:
    """1 if the first new name, of one or several words, is one of the gold's, else -1; 0 where none can be told."""
    if not names or not expected.names:
        return 0.0
    for place, following in itertools.zip_longest(names, names[1:]):
        if answer.stems[place] in expected.names:
            return 1.0
        if following != place + 1:
            break
    return -1.0


def _place(expected: Expectation, answer: Reading, new: Mapping[int, bool]) -> tuple[float, ...]:
    core, given = set(expected.core), expected.given
    matches = [
        place
        for place, (stem, root) in enumerate(zip(answer.stems, answer.roots, strict=True))
        if stem in core or root in core
    ]
    start, end = _best_sentence(answer, matches)
    stems = answer.stems[start:end]
    within = [place for place in matches if start <= place < end]
    asked = [place for place, stem in enumerate(stems, start) if stem in given]
    first, last = (within[0], within[-1]) if within else (end, end)
    others = [place for place, known in new.items() if not known and start <= place < end]
    return Place(
        sentence_repeats=_share(given, set(stems)) if given else 0.0,
        position=matches[0] if matches else 60,
        distance=min((abs(match - place) for match in within for place in asked), default=30),
        sentence_words=end - start,
        words_after=sum(place > last for place in others) if within else 9,
        words_within=sum(first < place < last for place in others) if within else 9,
        to_the_end=end - 1 - last if within else 40,
        contrast=not _CONTRASTS.isdisjoint(answer.texts[start:end]),
        goes_on=last + 1 < end and answer.texts[last + 1] in ("and", "or"),
    )


def _best_sentence(answer: Reading, matches: Sequence[int]) -> tuple[int, int]:
    """From where to where the first sentence goes that holds the most different words of the gold."""
    bounds = list(zip(answer.starts, [*answer.starts[1:], len(answer.texts)], strict=True))
    if len(bounds) == 1 or not matches:
        return bounds[0]
    return max(bounds, key=lambda bound: len({answer.stems[at] for at in matches if bound[0] <= at < bound[1]}))


def _numbers(expected: Expectation, answer: Reading) -> tuple[float, ...]:
    places = number_places(answer.texts) if expected.numbers or expected.period else []
    if not places:
        return NO_NUMBERS if not expected.numbers else NUMBERS_MISSING
    golds = expected.numbers
    kinds = {gold.kind for gold in golds}
    values = {gold.value for gold in golds}
    said = [
        found
        for found in quantities(answer.texts, places)
        if found.kind in kinds and (found.value in values or found.value not in expected.given_values)
    ]
    pairs = {(found.value, found.kind) for found in said}
    missed = [gold for gold in golds if (gold.value, gold.kind) not in pairs]
    return Numbers(
        numbers_found=1.0 - len(missed) / len(golds) if golds else 0.5,
        other_number=sum(any(found.kind == gold.kind for found in said) for gold in missed),
        first_number=0.0 if not said else 1.0 if said[0].value in values else -1.0,
        closeness=_closeness(golds, said),
        **_in_time(expected, answer, places),
    )


def _closeness(golds: Sequence[Quantity], said: Sequence[Quantity]) -> float:
    """Smaller over larger, of the gold's first count or percentage and the nearest of the answer's."""
    gold = next((gold for gold in golds if gold.kind in ("count", "percent") and gold.value > 0), None)
    values = [found.value for found in said if gold and found.kind == gold.kind]
    if gold is None or not values:
        return -1.0
    return max(min(value, gold.value) / max(value, gold.value) for value in values)


def _in_time(expected: Expectation, answer: Reading, places: Sequence[int]) -> dict[str, float]:
    """Whether the answer's first period lies in the gold's, and how far off; the question's own do not count."""
    gold = expected.period
    said = [each for each in periods(answer.texts, places) if each not in expected.given_periods] if gold else []
    if gold is None or not said:
        return {"in_period": 0.0, "years_off": -1.0}
    first, last = said[0]
    return {
        "in_period": float(gold.first - SLACK <= first and last <= gold.last + SLACK),
        "years_off": min(100.0, abs(first - gold.first), abs(last - gold.last)),
    }


def _polarity(expected: Expectation, answer: Reading) -> tuple[float, ...]:
    said = polarity_of(answer.texts)
    return Polarity(
        other_negation=negated(answer.texts) != expected.is_negated,
        opposite=-said * expected.polarity,
    )
