"""An English clause taken apart: subject, verb, rest. By word lists and a dictionary of forms, without a parser.

The dictionary (lemminflect) says which words can be a form of a verb; where the words around leave it open, the first
one that can stand as a finite verb behind a subject is taken. A clause that cannot be taken apart gives None.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import lemminflect

BE = frozenset("is are was were".split())
HAVE = frozenset("has have had".split())
DO = frozenset("do does did".split())
AUXILIARY = BE | HAVE | frozenset("can could may might must shall should will would".split())
DETERMINERS = frozenset(
    "the a an this that these those each every some any no its his her their our my your both all".split()
)
PREPOSITIONS = frozenset(
    "of in on at to from by with for into onto over under between through during until before after about above behind "
    "near since within without against as than per via along across around upon".split()
)
PRONOUNS = frozenset("it they he she this these".split())
RELATIVE = frozenset("that which who whose whom where when if because while whether".split())
NOT_SUBJECTS = frozenset("there here if when while because although to how what who which where why".split())
# Forms that are nouns as well, and verbs nearly always.
VERBS = frozenset(
    "takes makes gives shows needs means lives works costs uses leaves stands begins ends opens closes starts runs "
    "produces requires offers covers plays serves".split()
)
_EDGE = "\"'“”‘’()[],;:"


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause with a finite verb.

    Attributes:
        subject: What stands before the verb.
        verb: The finite verb; an auxiliary where there is one.
        rest: What stands behind it, without the full stop.
    """

    subject: str
    verb: str
    rest: str

    @property
    def has_auxiliary(self) -> bool:
        """Whether a question can begin with the verb; "have" can before a participle."""
        word = self.verb.lower()
        if word in DO | HAVE:
            first = self.rest.split(" ")[0]
            return first == "not" or (word in HAVE and is_participle(first))
        return word in AUXILIARY or is_negated(word)

    @property
    def text(self) -> str:
        return f"{self.subject} {self.verb} {self.rest}".strip()

    def asked(self, rest: str) -> tuple[str, str]:
        """The auxiliary of a question about the clause, and the words behind its subject.

        >>> Clause("The train", "leaves", "at noon").asked("from Ascot")
        ('does', 'leave from Ascot')
        """
        if self.has_auxiliary:
            return self.verb.lower(), rest
        lemma = lemma_of(self.verb)
        past = self.verb.lower() != lemma and (not self.verb.lower().endswith("s"))
        do = "did" if past else "does" if self.verb.lower() != lemma else "do"
        return do, f"{lemma} {rest}".strip()


def is_negated(word: str) -> bool:
    """Whether an auxiliary has its "not" in it, as "isn't" has."""
    return word.lower().endswith(("n't", "n’t"))


def bare(word: str) -> str:
    return word.strip(_EDGE).lower()


@lru_cache(maxsize=1 << 14)
def parts_of_speech(word: str) -> frozenset[str]:
    """The parts of speech that a word can be, of those that inflect; empty where the dictionary lacks it."""
    return frozenset(lemminflect.getAllLemmas(word))


@lru_cache(maxsize=1 << 14)
def lemma_of(verb: str) -> str:
    """The infinitive of a form of a verb."""
    lemmas = lemminflect.getAllLemmas(verb.lower()).get("VERB", ())
    return lemmas[0] if lemmas else verb.lower()


def is_participle(word: str) -> bool:
    """Whether a word can be a past participle."""
    lemmas = lemminflect.getAllLemmas(bare(word)).get("VERB", ())
    return any(bare(word) in lemminflect.getInflection(lemma, "VBN") for lemma in lemmas)


def active_of(participle: str, auxiliary: str) -> str:
    """The verb of the active sentence that a passive one with this participle and auxiliary says.

    >>> active_of("written", "was"), active_of("kept", "are")
    ('wrote', 'keeps')
    """
    lemma = lemma_of(bare(participle))
    if auxiliary in ("was", "were"):
        return (lemminflect.getInflection(lemma, "VBD") or (bare(participle),))[0]
    return (lemminflect.getInflection(lemma, "VBZ") or (lemma,))[0]


def is_common(word: str) -> bool:
    """Whether a word is in the dictionary, so that it is a name only by its place at the beginning of a sentence."""
    return bool(parts_of_speech(bare(word)))


def _is_imperative(words: list[str]) -> bool:
    first = bare(words[0])
    return "VERB" in parts_of_speech(first) and lemma_of(first) == first and bare(words[1]) in DETERMINERS | {"your"}


def clause_of(sentence: str) -> Clause | None:
    """The main clause of a sentence that begins with its subject; None for any other."""
    words = sentence.strip().rstrip(".!").split()
    if len(words) < 3 or sentence.rstrip().endswith("?") or bare(words[0]) in NOT_SUBJECTS | PREPOSITIONS:
        return None
    if _is_imperative(words):
        return None
    place = _finite_verb(words)
    if place is None or not place:
        return None
    subject, rest = " ".join(words[:place]).strip(","), " ".join(words[place + 1 :])
    quoted = subject.count('"') % 2 or subject.count("“") != subject.count("”")  # it ends within what somebody said
    return Clause(subject, words[place].strip(_EDGE), rest) if subject and rest and not quoted else None


def _finite_verb(words: list[str]) -> int | None:
    """Where the main verb is: behind a relative clause, the verb after that clause's own."""
    for strict in (True, False):
        within = brackets = 0
        for place, word in enumerate(words[:-1]):
            inside = brackets or word.startswith("(")
            brackets += word.count("(") - word.count(")")
            if not place or inside:
                continue
            if bare(word) in RELATIVE:
                within += 1
            elif _is_finite(words, place, strict=strict and not within):
                if not within:
                    return place
                within -= 1
    return None


def _is_finite(words: list[str], place: int, *, strict: bool) -> bool:
    """Whether a word can be a finite verb; where it can be a noun as well, what follows says so if that is `strict`."""
    word, before, after = bare(words[place]), bare(words[place - 1]), bare(words[place + 1])
    if words[place][0].isupper() or before in (DETERMINERS | PREPOSITIONS) - RELATIVE:
        return False
    if word in AUXILIARY or is_negated(word) or (word in DO and after == "not"):
        return True
    kinds = parts_of_speech(word)
    if word in VERBS:
        return True
    if "VERB" not in kinds or word.endswith("ing") or before in AUXILIARY | {"not"}:
        return False
    begins = after in DETERMINERS | PREPOSITIONS | PRONOUNS or after[:1].isdigit() or words[place + 1][0].isupper()
    if word == lemma_of(word):
        return before in {"we", "they", "you", "i"} or (_is_plural(before) and (kinds == {"VERB"} or begins))
    return "NOUN" not in kinds or begins or not strict


def _is_plural(word: str) -> bool:
    return word.endswith("s") or word in ("people", "children", "men", "women")
