"""A self-edit by rule: statements on lines of their own, and questions with their answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seal_lightning.tasks.rule_based.clauses import (
    AUXILIARY,
    DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
    bare,
    clause_of,
    is_common,
)
from seal_lightning.tasks.rule_based.facts import Fact, Property, Sentence, facts_of
from seal_lightning.tasks.rule_based.questions import (
    NAME,
    NUMBER,
    QuestionPair,
    lower,
    names_person,
    pairs_of_property,
    pairs_of_sentence,
    possessive,
    subject_of,
)
from seal_lightning.types import Context

GRAMMAR = AUXILIARY | DETERMINERS | PREPOSITIONS | PRONOUNS | {"and", "or", "not", "we", "you"}
ENGLISH = 0.2  # of the words of an English text, at least this share is grammar
LONGEST = 18  # words of a question; what is longer was a sentence that the rules did not take apart
LONGEST_FACT = 500  # characters; what is longer is stated and nothing is asked about it
GAP = "___"
# What the edits of a context consist of, in turn.
FORMS = (("statements", "questions", "gaps"), ("statements", "questions"), ("statements", "gaps"))


@dataclass(frozen=True, slots=True)
class _Told:
    """A fact, what a pronoun at its beginning stands for ("" where that is not known), and its statement."""

    fact: Fact
    subject: str
    statement: str


def write_by_rule(context: Context, index: int = 0) -> str:
    """The text of an edit of a context: each statement a line, each question two ("Question:", "Answer:").

    Args:
        context: What it is about.
        index: Number of the edit; `FORMS` take turns.

    Returns:
        "" where the passage states nothing that the rules can read.
    """
    english, title = is_english(context.passage), context.title.strip()
    told = list(_told(context, title, english=english))
    form = FORMS[index % len(FORMS)]
    lines: list[str] = []
    if "statements" in form:
        lines += [one.statement for one in told]
    pairs = [pair for one in told for pair in _asked(one, title, form, english=english)]
    unique = {pair.question: pair for pair in reversed(pairs)}
    lines += [f"Question: {pair.question}\nAnswer: {pair.answer}" for pair in reversed(unique.values())]
    return "\n".join(dict.fromkeys(filter(None, lines)))


def _asked(one: _Told, title: str, form: Sequence[str], *, english: bool) -> list[QuestionPair]:
    """The questions about a fact, and a gap for each name and number that none of them asks for."""
    if len(one.fact.text if isinstance(one.fact, Sentence) else one.fact.value + one.fact.owner) > LONGEST_FACT:
        return []
    asked = [pair for pair in _pairs(one, title, english=english) if _is_sound(pair)] if "questions" in form else []
    if "gaps" in form or not english:
        known = [f" {pair.answer} " for pair in asked]
        asked += [pair for pair in gaps(one.statement) if not any(f" {pair.answer} " in answer for answer in known)]
    return asked


def is_english(text: str) -> bool:
    """Whether a text is English enough for questions in English."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return bool(words) and sum(word in GRAMMAR for word in words) >= ENGLISH * len(words)


def _told(context: Context, title: str, *, english: bool) -> Iterator[_Told]:
    known, person = title, True
    for fact in facts_of(context.passage):
        first = fact.text.split(" ")[0] if isinstance(fact, Sentence) else ""
        subject = known if person or first not in ("He", "She", "His", "Her") else ""
        yield _Told(fact, subject, statement(fact, subject, title, english=english))
        if isinstance(fact, Sentence):
            known, person = subject_of(fact, known=known), names_person(fact, known=person)


def statement(fact: Fact, subject: str, title: str, *, english: bool) -> str:
    """A fact as a sentence that is understood by itself."""
    if isinstance(fact, Property):
        if english:
            return _of_property(fact, title)
        return f"{fact.owner} {fact.name}: {fact.value}".strip()
    if not english or not subject:
        return fact.text
    first, _, rest = fact.text.partition(" ")
    clause = clause_of(fact.text)
    if clause is not None and first in ("It", "They", "He", "She") and bare(clause.subject) == first.lower():
        return f"{_capital(subject)} {rest}"
    if first in ("Its", "Their", "His", "Her"):
        return f"{possessive(_capital(subject))} {rest}"
    return fact.text


def _capital(subject: str) -> str:
    """A subject at the beginning of a sentence; a name keeps its first letter."""
    first = bare(subject.split(" ")[0])
    return subject[0].upper() + subject[1:] if first in DETERMINERS or is_common(first) else subject


def _of_property(fact: Property, title: str) -> str:
    value = fact.value.rstrip(".")
    if fact.kind in ("function", "class"):
        verb = "does this" if fact.name == "description" else f"has the {fact.name}"
        return f"The {fact.kind} {fact.owner} {verb}: {value}."
    if fact.owner:
        return f"{fact.kind} {fact.owner}: {fact.name} {value}."
    return f"The {lower(fact.name)} of {title} is {value}." if title else f"{fact.name}: {value}."


def _pairs(one: _Told, title: str, *, english: bool) -> Iterator[QuestionPair]:
    if isinstance(one.fact, Property):
        if english:
            yield from pairs_of_property(one.fact, title)
        else:
            yield QuestionPair(f"{one.fact.owner} {one.fact.name}?".strip(), one.fact.value)
    elif english:
        yield from pairs_of_sentence(one.fact.text, subject=one.subject)


def gaps(text: str) -> Iterator[QuestionPair]:
    """A sentence once for each of its names and numbers, which is left out of it."""
    spans: Sequence[re.Match[str]] = [*re.finditer(NUMBER, text), *re.finditer(rf"(?:{NAME.pattern})+", text)]
    for match in sorted(spans, key=re.Match.start):
        start, answer = match.start(), match[0].strip().rstrip(".")
        if not start and (answer.count(" ") == 0 or is_common(answer.split(" ")[0])):  # its capital letter says nothing
            first, _, answer = answer.partition(" ")
            start = len(first) + 1
        if answer:
            yield QuestionPair(f"{text[:start]}{GAP}{text[start + len(answer) :]}", answer)


def _is_sound(pair: QuestionPair) -> bool:
    question, answer = pair.question, pair.answer.strip()
    if not any(map(str.isalnum, answer)) or "\n" in question + answer or question.count('"') % 2:
        return False
    return GAP in question or len(question.split()) <= LONGEST
