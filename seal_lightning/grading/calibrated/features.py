"""What the calibrated grader looks at: features of question, gold and answer, each a number with a name.

Lexical only: no language model and no dictionary, so a synonym stays a different word. The judge's question is whether
the answer makes the claim that the gold makes; the groups below ask for it from six sides. Many more were tried that
said nothing new beside these (docs/graders.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress
from typing import NamedTuple

from rapidfuzz import fuzz

from seal_lightning.grading.calibrated.expectation import Expectation, Expected, WantedNumber, negated, polarity_of
from seal_lightning.grading.calibrated.quantities import Quantity, periods, quantities
from seal_lightning.grading.calibrated.reading import Reading

_SLACK = 2.0  # years by which an answer's year may miss a period
_CONTRASTS = frozenset("while but although however whereas though unlike instead rather despite except".split())


class Coverage(NamedTuple):
    """How much of the gold the answer holds, of what the question does not give away."""

    key_words_found: float  # share of the gold's key words: of a number asked for, the numbers alone
    key_words_missing: float  # how many
    last_word_found: float  # the last one: of a name the family name, of a phrase often its head
    best_alternative: float  # of "copper or arsenic", "Hayy (Philosophus)": the share found of the best one
    worst_item: float  # of a list: the share found of the least covered item
    items_found: float  # of a list: the share of items of which half is found; 0 where there is none
    same_phrase: float  # the gold's words occur in order and side by side, articles aside
    longest_run: float  # the most of the gold's words, up to eight, that occur side by side, as a share
    same_letters: float  # likeness of gold and answer, letter by letter
    missing_names: float  # how many names among the gold's new words the answer does not have


class Support(NamedTuple):
    """What else the answer says. Its new words are content words that the question does not have."""

    supported: float  # share of the new words that are the gold's
    other_words: float  # how many are not
    other_names: float  # names in the first sentence that neither gold nor question has
    question_in_first: float  # share of the question's content words in the first sentence


class Place(NamedTuple):
    """Where the match stands, in the sentence that holds most of the gold."""

    question_repeated: float  # share of the question's content words in that sentence
    distance: float  # words between the match and the nearest content word of the question
    after: float  # words after the last match
    contrast: float  # a "but", "while", "however" in that sentence
    longer_name: float  # beside a match stands a name that neither gold nor question has: "San Antonio"


class Numbers(NamedTuple):
    """Whether numbers agree; only those of a kind are compared, and not those the question gives."""

    other_number: float  # how many of the gold's numbers meet only different ones of their kind
    first_number: float  # 1: the first number of the gold's kinds is right; -1: it is another


class Polarity(NamedTuple):
    """Yes and no."""

    other_negation: float  # gold or answer is negated, the other is not
    opposite: float  # of a question for yes or no: 1 the answer opens with the opposite of the gold, -1 with the same


GROUPS = (Coverage, Support, Place, Numbers, Polarity, Expected)
FEATURES: tuple[str, ...] = tuple(name for group in GROUPS for name in group._fields)


def measure(expected: Expectation, answer: Reading) -> tuple[float, ...]:
    """The features of an answer with at least one word, in the order of `FEATURES`."""
    if expected.single:
        answer = answer.with_single(expected.single)
    starts = answer.starts()
    found = set(answer.roots)
    for run in expected.whole:
        if not run <= found:  # another name that shares characters, such as 北京大学 for 东京大学
            found -= run
    place = _NO_MATCH if expected.core.isdisjoint(found) else _place(expected, answer, starts)
    numbers, met = _numbers(expected, answer)
    if met:
        found.update(met)
    if expected.is_unspaced and numbers.other_number:  # one wrong number makes another date, though most of it is said
        found.difference_update([gold.text for gold in expected.numbers])
    claim = _coverage(expected, answer, found) + _support(expected, answer, starts)
    return claim + place + numbers + _polarity(expected, answer) + expected.shape


def _coverage(expected: Expectation, answer: Reading, found: set[str]) -> Coverage:
    said = text = "".join(answer.plain)
    wanted = expected.phrase
    if expected.is_unspaced:  # each letter is a word: without the blanks, which would all be alike
        wanted, said = wanted.replace(" ", ""), said.replace(" ", "")
    same_phrase = expected.phrase in text and f" {expected.phrase}" in f" {text}"
    key = len(expected.key & found)
    items = [len(item & found) / len(item) for item in expected.items]
    return Coverage(
        key_words_found=key / len(expected.key),
        key_words_missing=len(expected.key) - key,
        last_word_found=expected.last <= found,
        best_alternative=max([len(words & found) / len(words) for words in expected.alternatives]),
        worst_item=min(items),
        items_found=sum([item >= 0.5 for item in items]) / len(items) if expected.is_list else 0.0,
        same_phrase=same_phrase,
        longest_run=1.0 if same_phrase else _longest_run(expected, answer, found),
        same_letters=fuzz.ratio(wanted, said) / 100.0,
        missing_names=len(expected.names - found),
    )


def _longest_run(expected: Expectation, answer: Reading, found: Collection[str]) -> float:
    if expected.roots.isdisjoint(found):
        return 0.0
    text = f" {' '.join(answer.roots)} "
    for share, runs in expected.runs:
        for run in runs:
            if run in text:
                return share
    return 0.0


def _support(expected: Expectation, answer: Reading, starts: Sequence[int]) -> Support:
    said = set(answer.content)
    new = said - expected.given
    known = len(new & expected.roots)
    end = starts[1] if len(starts) > 1 else len(answer.roots)
    repeated = expected.given.intersection(said if len(starts) == 1 else answer.content[:end])
    names = set(compress(answer.roots[1:end], answer.names[1:end]))  # a sentence opens with a capital anyway
    return Support(
        supported=known / max(1, len(new)),
        other_words=len(new) - known,
        other_names=len(names - expected.asked - expected.roots),
        question_in_first=len(repeated) / len(expected.given),
    )


def _place(expected: Expectation, answer: Reading, starts: Sequence[int]) -> Place:
    core, given = expected.core, expected.given
    matches = [place for place, root in enumerate(answer.roots) if root in core]
    start, end = _best_sentence(answer, starts, matches)
    sentence = answer.content[start:end]
    within = [place for place in matches if start <= place < end]
    asked = [place for place, root in enumerate(sentence, start) if root and root in given]
    return Place(
        question_repeated=len(given.intersection(sentence)) / len(given),
        distance=min([abs(match - place) for match in within for place in asked], default=30),
        after=end - 1 - within[-1],
        contrast=not _CONTRASTS.isdisjoint(answer.texts[start:end]),
        longer_name=_is_longer_name(expected, answer, starts, matches),
    )


_NO_MATCH = Place(question_repeated=0, distance=30, after=40, contrast=0, longer_name=0)


def _is_longer_name(expected: Expectation, answer: Reading, starts: Sequence[int], matches: Sequence[int]) -> bool:
    names, roots = answer.names, answer.roots
    last = len(roots) - 1
    for match in matches:
        for place in (match - 1, match + 1):
            if 0 <= place <= last and names[place]:
                root = roots[place]
                if root not in expected.roots and root not in expected.asked and place not in starts:
                    return True
    return False


def _best_sentence(answer: Reading, starts: Sequence[int], matches: Sequence[int]) -> tuple[int, int]:
    """From where to where the first sentence goes that holds the most different words of the gold."""
    if len(starts) == 1:
        return 0, len(answer.texts)
    bounds = zip(starts, [*starts[1:], len(answer.texts)], strict=True)
    return max(bounds, key=lambda bound: len({answer.roots[at] for at in matches if bound[0] <= at < bound[1]}))


def _numbers(expected: Expectation, answer: Reading) -> tuple[Numbers, Collection[str]]:
    """The features, and the gold's words that are met without being repeated: "about 50" by 49, "the 1970s" by 1975."""
    golds = expected.numbers
    said = quantities(answer) if golds and True in answer.numbers else []
    if not said:
        return _NO_NUMBERS, ()
    kinds = {gold.kind for gold in golds}
    values = {gold.value for gold in golds}
    same = [
        each
        for each in said
        if each.kind in kinds and (each.value in values or each.value not in expected.given_values)
    ]
    met = [gold for gold in golds if any([_meets(gold, each) for each in same])]
    told = {each.kind for each in same}
    found = Numbers(
        other_number=sum([gold.kind in told for gold in golds if gold not in met]),
        first_number=0.0 if not same else 1.0 if any([_meets(gold, same[0]) for gold in met]) else -1.0,
    )
    return found, [*[gold.text for gold in met], *(expected.timing if _in_period(expected, answer) else ())]


_NO_NUMBERS = Numbers(other_number=0, first_number=0)


def _meets(gold: WantedNumber, said: Quantity) -> bool:
    return gold.kind == said.kind and (gold.value == said.value or gold.lowest <= said.value <= gold.highest)


def _in_period(expected: Expectation, answer: Reading) -> bool:
    """Whether the answer's first period, of those that the question does not give, lies in the gold's."""
    if not expected.timing or expected.period is None:
        return False
    said = [each for each in periods(answer) if each not in expected.given_periods]
    first, last = expected.period
    return bool(said) and first - _SLACK <= said[0].first and said[0].last <= last + _SLACK


def _polarity(expected: Expectation, answer: Reading) -> Polarity:
    return Polarity(
        other_negation=negated(answer.texts) != expected.is_negated,
        opposite=-polarity_of(answer.texts) * expected.polarity if expected.polarity else 0.0,
    )
