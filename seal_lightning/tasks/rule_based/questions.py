"""Questions with their answers from the facts of a passage, in English.

"The train leaves at 7:42."  ->  When does the train leave? 7:42 · What leaves at 7:42? The train
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from seal_lightning.tasks.rule_based.clauses import (
    BE,
    DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVE,
    Clause,
    active_of,
    bare,
    clause_of,
    is_common,
    is_negated,
    is_participle,
    lemma_of,
    parts_of_speech,
)
from seal_lightning.tasks.rule_based.facts import Property, Sentence

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
TIME = re.compile(
    rf"\b(?:{MONTHS}|{DAYS}|noon|midnight|sunset|sunrise|evening|morning|winter|summer|spring|autumn|today|tomorrow"
    r"|weekend|week|month|(?:1[0-9]|20)\d\d)\b|^\d{1,2}[:.]\d\d\b",
)
WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|half|twice"
NUMBER = re.compile(rf"(?<![\w.-])[$€£]?\d(?:[\d,.:/]*\d)?|\b(?:{WORDS})\b", re.I)
MONEY = frozenset("pound pounds dollar dollars euro euros cent cents pence percent %".split())
NAME = re.compile(r"[A-Z][\w'’.-]*(?:\s+(?:of|the|de|van|von|der|da)\s+(?=[A-Z])|\s+(?=[A-Z0-9]))?")
PLACES = frozenset("in at on from to near into under above behind between through".split())
WH_NAMES = {"who": "Who", "whom": "Who", "when": "When", "where": "Where", "why": "Why", "how": "How", "what": "What"}


@dataclass(frozen=True, slots=True)
class QuestionPair:
    """A question with its answer."""

    question: str
    answer: str


def pairs_of_property(fact: Property, title: str) -> Iterator[QuestionPair]:
    """What can be asked about a value under a name."""
    name, value, lowered = fact.name, fact.value.rstrip("."), lower(fact.name)
    if fact.kind in ("function", "class"):
        yield from _of_program(fact, value)
        return
    first = WH_NAMES.get(name.split()[0].lower())
    if fact.owner and first and len(name.split()) == 1:
        yield QuestionPair(f"{first} is it for {fact.owner}?", value)
        yield QuestionPair(f"{fact.kind} {fact.owner}: {lowered}?", value)
    elif fact.owner and first:
        yield QuestionPair(f"{name} on {fact.owner}?", value)
        yield QuestionPair(f"{fact.kind} {fact.owner}: {lowered}?", value)
    elif fact.owner:
        yield QuestionPair(f"What is the {lowered} of {fact.owner}?", value)
        yield QuestionPair(f"{fact.kind} {fact.owner}: what is the {lowered}?", value)
        if value[:1].isdigit():
            yield QuestionPair(f"How many {lowered} is {fact.owner}?", value)
    else:
        yield QuestionPair(f"What is the {lowered}?", value)
        yield QuestionPair(f"What is the {lowered} of {title}?", value)
        if _is_person(value):
            yield QuestionPair(f"Who is the {lowered} of {title}?", value)
    if fact.owner and not value[:1].isdigit():
        yield QuestionPair(f"Which {fact.kind.lower() or 'one'} has the {lowered} {value}?", fact.owner)


def _of_program(fact: Property, value: str) -> Iterator[QuestionPair]:
    if fact.name == "description":
        yield QuestionPair(f"What does the {fact.kind} {fact.owner} do?", value)
        yield QuestionPair(f"Which {fact.kind} is this: {value}?", fact.owner)
    elif fact.name == "arguments":
        yield QuestionPair(f"Which arguments does the {fact.kind} {fact.owner} take?", value)
    elif fact.name == "return type":
        yield QuestionPair(f"What does the {fact.kind} {fact.owner} return?", value)
    else:
        yield QuestionPair(f"What is the {fact.name} in the {fact.kind} {fact.owner}?", value)


def pairs_of_sentence(sentence: str, *, subject: str = "") -> Iterator[QuestionPair]:
    """What can be asked about a sentence.

    Args:
        sentence: The sentence.
        subject: What `it` and the like stand for at its beginning; empty where that is not known.
    """
    yield from _of_condition(sentence)
    for part in coordinated(sentence):
        clause = clause_of(part)
        if clause is None:
            continue
        if bare(clause.subject) in PRONOUNS:
            if not subject:
                continue
            clause = Clause(subject, clause.verb, clause.rest)
        elif subject and clause.subject.split()[0] in ("Its", "Their", "His", "Her"):
            clause = Clause(f"{possessive(subject)} {clause.subject.split(' ', 1)[1]}", clause.verb, clause.rest)
        yield from _of_clause(clause)


def possessive(subject: str) -> str:
    return f"{subject}'" if subject.endswith("s") else f"{subject}'s"


def coordinated(sentence: str) -> Iterator[str]:
    """The clauses that "and", "but" and "so" join; a second verb gets the first one's subject."""
    text = re.split(r",? because ", sentence, maxsplit=1)[0]
    parts = re.split(r",?\s(?:and|but|so)\s", text)
    whole, known = "", ""
    pieces: list[str] = []
    for part in parts:
        clause = clause_of(part)
        words = part.split()
        if clause is not None and pieces:
            pieces.append(part)
        elif pieces and known and len(words) > 1 and clause_of(f"It {part}") is not None and not words[0][0].isupper():
            pieces.append(f"{known} {part}")
            clause = clause_of(pieces[-1])
        elif pieces:
            joint = text[len(whole) : text.index(part, len(whole))] if part in text[len(whole) :] else " and "
            pieces[-1] += f"{joint}{part}"
        else:
            pieces.append(part)
        whole = text[: text.find(part, len(whole)) + len(part)]
        known = clause.subject if clause is not None else known
    yield from pieces


def _of_condition(sentence: str) -> Iterator[QuestionPair]:
    """Reasons and conditions."""
    text = sentence.strip().rstrip(".")
    if match := re.fullmatch(r"If (?P<if>[^,]+), (?:then )?(?P<then>.+)", text):
        yield QuestionPair(f"What if {match['if']}?", _capital(match["then"]))
        yield QuestionPair(f"When is it that {match['then']}?", f"If {match['if']}")
    if match := re.fullmatch(r"(?P<what>[^,]+),? because (?P<why>.+)", text):
        clause = clause_of(match["what"])
        if clause is not None:
            aux, rest = clause.asked(clause.rest)
            yield QuestionPair(f"Why {aux} {lower(clause.subject)} {rest}?", f"Because {match['why']}")
    if match := re.fullmatch(r"To (?P<end>[^,]+), (?P<how>.+)", text):
        yield QuestionPair(f"How do you {match['end']}?", _capital(match["how"]))


def _of_clause(clause: Clause) -> Iterator[QuestionPair]:
    """About the subject, and about each part of what is said of it."""
    yield QuestionPair(
        f"{'Who' if _is_person(clause.subject) else 'What'} {clause.verb} {clause.rest}?", clause.subject
    )
    yield from _passive(clause)
    if clause.verb.lower() in BE and (complement := _complement(clause.rest)):
        wh = "Who" if _is_person(complement) else "What"
        yield QuestionPair(f"{wh} {clause.verb} {lower(clause.subject)}?", complement)
    if re.match(r"(?:that|whether) ", clause.rest):
        aux, rest = clause.asked("")
        yield QuestionPair(f"What {aux} {lower(clause.subject)} {rest}?", clause.rest.split(" ", 1)[1])
        return
    for start, end, preposition in _parts(clause.rest):
        answer = clause.rest[start:end].strip(" ,")
        before = clause.rest[:start].strip()
        after = clause.rest[end:].strip(" ,")
        yield from _about(clause, answer, before, after, preposition)


def _passive(clause: Clause) -> Iterator[QuestionPair]:
    """Who did what a passive sentence says."""
    match = re.match(r"(?P<be>be )?(?P<verb>\w+)(?P<between>(?: \w+){0,4}?) by (?P<who>.+)", clause.rest)
    if match is None or not clause.has_auxiliary or is_negated(clause.verb) or not is_participle(match["verb"]):
        return
    who = next((match["who"][start:end] for start, end, preposition in _parts(match["who"]) if not preposition), "")
    who = who.strip(" ,")
    if not who or TIME.search(who):
        return
    verb = (
        active_of(match["verb"], clause.verb.lower()) if not match["be"] else f"{clause.verb} {lemma_of(match['verb'])}"
    )
    behind = match["who"][match["who"].index(who) + len(who) :].split(",")[0].strip()
    wh = "Who" if _is_person(who) else "Who or what"
    yield QuestionPair(f"{wh} {verb} {lower(clause.subject)}?", who)
    if behind and behind.split()[0].lower() in PREPOSITIONS:
        yield QuestionPair(f"{wh} {verb} {lower(clause.subject)} {behind}?", who)


def _about(clause: Clause, answer: str, before: str, after: str, preposition: str) -> Iterator[QuestionPair]:
    """Questions about one part of the rest of a clause."""
    wh, takes = question_word(answer, preposition)
    left = before[: -len(preposition)].strip() if preposition and takes else before
    if preposition == "by" and not takes and clause.has_auxiliary:  # asked in the active voice, by `_passive`
        return
    if preposition and not takes:  # What does it belong to?
        aux, rest = clause.asked(" ".join(filter(None, [before[: -len(preposition)].strip(), after, preposition])))
    else:
        aux, rest = clause.asked(" ".join(filter(None, [left, after])))
    if not rest.strip() and aux in BE:
        yield QuestionPair(f"{wh} {aux} {lower(clause.subject)}?", answer)
        return
    yield QuestionPair(_tidy(f"{wh} {aux} {lower(clause.subject)} {rest}?"), answer)
    core = " ".join(takewhile(lambda word: bare(word) not in PREPOSITIONS, left.split()))
    complete = bool(core) or not clause.has_auxiliary or aux in BE
    if takes and complete and (after or core != left.strip()):
        yield QuestionPair(_tidy(f"{wh} {aux} {lower(clause.subject)} {clause.asked(core)[1]}?"), answer)


def question_word(answer: str, preposition: str) -> tuple[str, bool]:
    """The question word for a part of a sentence, and whether it stands for the preposition too.

    >>> question_word("7:42", "at"), question_word("14 months", ""), question_word("Hannah", "by")
    (('When', True), ('How many months', False), ('Who', False))
    """
    words = answer.split()
    if TIME.search(answer) and (preposition or not NUMBER.match(answer)):
        return "When", True
    if match := NUMBER.match(answer):
        unit = " ".join(words[1 : 3 if words[1:2] in (["square"], ["cubic"]) else 2]).strip(",.")
        if match[0][0] in "$€£" or unit.lower() in MONEY:
            return ("How much", False)
        if len(words) > 1 and unit.replace(" ", "").isalpha():
            return f"How many {unit}", False
        return "What number", False
    if _is_person(answer) and preposition not in ("in", "at"):
        return "Who", False
    if preposition in PLACES and preposition not in ("to",):
        return "Where", True
    return "What", False


def _parts(rest: str) -> Iterator[tuple[int, int, str]]:
    """The phrases of a clause's rest that can be asked about: start, end and the preposition before each."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", rest)]
    place = 0
    while place < len(words):
        word = bare(rest[slice(*words[place])])
        preposition = word if word in PREPOSITIONS else ""
        first = place + 1 if preposition else place
        end = first
        while end < len(words) and not _ends(rest, words, end, first):
            end += 1
        if end > first and _is_phrase(rest[words[first][0] : words[end - 1][1]]):
            yield words[first][0], words[end - 1][1], preposition
        place = max(end, place + 1)


def _ends(rest: str, words: list[tuple[int, int]], place: int, first: int) -> bool:
    """Whether a phrase that began at `first` ends before this word."""
    word = bare(rest[slice(*words[place])])
    if place > first and rest[words[place - 1][1] - 1] in ",;":
        return True
    if place == first:
        return word in PREPOSITIONS
    return (word in PREPOSITIONS and word != "of") or word in RELATIVE or word in ("and", "or", "but", "so")


def _is_phrase(text: str) -> bool:
    """Whether a phrase says something that one can ask for."""
    words = text.split()
    head = bare(words[0])
    return bool(
        NUMBER.match(text) or TIME.search(text) or NAME.match(text) or (head in DETERMINERS and len(words) > 1)
        or any(mark in text for mark in "`@/._") or (len(words) == 1 and "VERB" not in parts_of_speech(head))
    ) and any(map(str.isalnum, text))  # fmt: skip


def _complement(rest: str) -> str:
    """What a subject is said to be: up to a relative clause or a preposition other than "of" and "for"."""
    words = rest.split()
    end = next(
        (n for n, word in enumerate(words) if bare(word) in RELATIVE or (bare(word) in PREPOSITIONS - {"of", "for"})),
        len(words),
    )
    head = words[:end]
    if not head or not (
        bare(head[0]) in DETERMINERS or head[0][0].isupper() or NUMBER.match(head[0]) or not is_common(head[0])
    ):
        return ""
    return " ".join(head).strip(",")


def _is_person(text: str) -> bool:
    """Whether a text looks like the name of a person: two or three capitalised words, or one without an article."""
    words = text.split()
    if not 1 <= len(words) <= 3 or TIME.search(text):
        return False
    return all(re.fullmatch(r"[A-Z][a-z’'-]+", word.strip(",")) for word in words) and not (
        bare(words[0]) in DETERMINERS or all(map(is_common, words))
    )


def lower(subject: str) -> str:
    """A subject, or what something is called, in the middle of a sentence.

    >>> lower("The train"), lower("Keys of the site"), lower("MPL-2.0"), lower("Samir")
    ('the train', 'keys of the site', 'MPL-2.0', 'Samir')
    """
    first, *others = subject.split(" ", 1)
    common = bare(first) in DETERMINERS | PRONOUNS | {"we"} or (first[1:].islower() and is_common(first))
    return " ".join([first.lower(), *others]) if common and not TIME.search(first) else subject


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tidy(question: str) -> str:
    return re.sub(r"\s+([,?])", r"\1", re.sub(r",\s*\?", "?", question)).replace(" ,", ",")


def names_person(fact: Sentence, *, known: bool) -> bool:
    """Whether "he" or "she" at the beginning of the next sentence can be this sentence's subject.

    Args:
        fact: The sentence.
        known: Whether they can be the subject of the sentence before, which a pronoun here goes on with.
    """
    clause = clause_of(fact.text)
    if clause is None:
        return False
    if bare(clause.subject.split()[0]) in PRONOUNS | {"its", "their", "his", "her", "we"}:
        return known
    return _is_person(clause.subject) or (clause.verb.lower() in BE and _is_person(_complement(clause.rest)))


def subject_of(fact: Sentence, *, known: str) -> str:
    """What a pronoun at the beginning of the next sentence stands for."""
    clause = clause_of(fact.text)
    if clause is None or bare(clause.subject) in PRONOUNS or bare(clause.subject.split()[0]) in ("its", "their", "we"):
        return known
    return lower(clause.subject)
