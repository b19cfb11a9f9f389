"""Lines of self-edits in the lab: the styles in which the lab model learnt to write, and which style a line has.

The styles differ in what the inner loop can make of them (Physics of Language Models 3.1, arXiv 2309.14316): a question
with its answer or a full statement teaches its fact, a line without the town's name or the value does not. Nothing in
the reward knows styles: `classify` is for looking at edits afterwards.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from seal_lightning.lab.world import ATTRIBUTES, BY_NAME, Fact

Style = Literal["question", "statement", "reversed", "pronoun", "vague", "wrong", "other"]

# How often a document of the pre-training corpus is in a style; `question` and `statement` are the useful ones.
STYLE_SHARES: dict[Style, float] = {
    "question": 0.14,
    "statement": 0.20,
    "reversed": 0.18,
    "pronoun": 0.18,
    "vague": 0.16,
    "wrong": 0.14,
}
KEPT_STYLE = 0.85  # how often a line has its document's style; else it has one drawn anew
STATEMENTS = ("The {name} of {town} is {value}.", "In {town}, the {name} is {value}.", "own")
QUESTION = "Question: {question} Answer: {value}"
FORMS: dict[Style, str] = {
    "reversed": "So {value} is the {name} of {town}.",
    "pronoun": "Its {name} is {value}.",
    "vague": "Many people in {town} talk about the {name}.",
}


def write_line(fact: Fact, style: Style, draw: random.Random, *, told: Sequence[Fact] = ()) -> str:
    """One line about a fact; a `wrong` one has a value that none of the facts `told` has."""
    match style:
        case "question":
            return QUESTION.format(question=fact.question(), value=fact.value)
        case "statement":
            form = draw.choice(STATEMENTS)
            return fact.fill(f"The town of {{town}} {fact.attribute.clause}." if form == "own" else form)
        case "reversed" | "pronoun" | "vague":
            return fact.fill(FORMS[style])
        case "wrong":
            taken = {other.value for other in told} | {fact.value}
            value = draw.choice([value for value in fact.attribute.values if value not in taken])
            lie = Fact(fact.town, fact.attribute, value)
            return write_line(lie, draw.choice(("question", "statement")), draw)
        case _:
            raise ValueError(f"style must be one of {', '.join(STYLE_SHARES)}, got {style}")


def write_edit(facts: Sequence[Fact], draw: random.Random, *, lines: int) -> str:
    """A self-edit as in the pre-training corpus: at most `lines` facts, most in the document's style."""
    style = _draw_style(draw)
    written = []
    for fact in draw.sample(list(facts), min(lines, len(facts))):
        kept = style if draw.random() < KEPT_STYLE else _draw_style(draw)
        written.append(write_line(fact, kept, draw, told=facts))
    return "\n".join(written)


def _draw_style(draw: random.Random) -> Style:
    return draw.choices(list(STYLE_SHARES), weights=list(STYLE_SHARES.values()))[0]


def ideal_edit(facts: Sequence[Fact]) -> str:
    """What a perfect self-editor writes: every fact, as a statement and as a question with its answer."""
    return "\n".join(
        line
        for fact in facts
        for line in (fact.fill(STATEMENTS[0]), QUESTION.format(question=fact.question(), value=fact.value))
    )


_FIELDS = {"town": "[A-Z][a-z]+ [A-Z][a-z]+", "name": "|".join(BY_NAME), "value": r"\w+"}


def _pattern(form: str) -> re.Pattern[str]:
    escaped = re.escape(form)
    for field, pattern in _FIELDS.items():
        escaped = escaped.replace(re.escape(f"{{{field}}}"), f"(?P<{field}>{pattern})", 1)
    return re.compile(escaped)


_FORMS: list[tuple[Style, str | None, re.Pattern[str]]] = [
    *(("statement", None, _pattern(form)) for form in STATEMENTS[:2]),
    *((style, None, _pattern(form)) for style, form in FORMS.items()),
]
for _attribute in ATTRIBUTES:
    _FORMS.append(("statement", _attribute.name, _pattern(f"The town of {{town}} {_attribute.clause}.")))
    _question = QUESTION.replace("{question}", _attribute.question)
    _FORMS.append(("question", _attribute.name, _pattern(_question)))


def classify(line: str, facts: Sequence[Fact]) -> Style:
    """The style of one line of an edit, for analysis; a statement or question that is not among the facts is wrong."""
    true = {(fact.town, fact.attribute.name, fact.value) for fact in facts}
    for style, attribute, pattern in _FORMS:
        if found := pattern.fullmatch(line.strip()):
            if style in ("vague", "pronoun"):
                return style
            said = found["town"], attribute or found["name"], found["value"]
            return style if said in true else "wrong"
    return "other"


def style_counts(edit: str, facts: Sequence[Fact]) -> Counter[Style]:
    """How many lines of an edit have each style."""
    return Counter(classify(line, facts) for line in edit.splitlines() if line.strip())
