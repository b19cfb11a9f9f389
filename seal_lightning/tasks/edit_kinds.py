"""The kinds of self-edit for knowledge: what the policy is asked to write and how it is read.

The wording is a first-class setting (in the paper, section 4.2 and its appendix, an untrained "rewrite" beats trained
"implications"), so a kind can also be written in YAML. The wording here is the project's own. Parsers accept any text:
each piece is one training sequence, kept as the policy wrote it, and only pieces without content (numbering, rules,
empty lines) are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from seal_lightning.errors import ConfigError
from seal_lightning.types import Context, Prompt

Parser = Literal["lines", "blocks", "sections", "questions", "statements", "whole"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_FIELDS = ("title", "passage")


@dataclass(frozen=True, slots=True)
class EditKind:
    """One way to ask for a self-edit and to read it.

    Args:
        instruction: Request to the policy; {title} and {passage} stand for those of the context, other braces are kept.
        lead: Words after which a base model starts to write, on a line of their own; an instruct model never sees them.
        parser: How the edit becomes training sequences: `lines` (each line one), `blocks` (split at lines of `---`),
            `sections` (split there and at headings), `questions` (each question with its answer one), `statements`
            (each line one, and each question with its answer) or `whole` (the edit is one).
        system: System message for an instruct model; a base model never sees it.
        name: What journals and tables call it beside other kinds; without one, kinds are numbered.
        by_rule: Written by rules instead of a model (`seal_lightning.tasks.rule_based`); the M-step teaches the policy
            to write it when it is asked as above.
    """

    instruction: str
    lead: str = ""
    parser: Parser = "lines"
    system: str = ""
    name: str = ""
    by_rule: bool = False

    def __post_init__(self) -> None:
        names = set(_PLACEHOLDER.findall(self.instruction))
        if "passage" not in names:
            raise ConfigError("instruction must contain {passage}, got none: put it where the passage is to be read")
        if unknown := sorted(names.difference(_FIELDS)):
            raise ConfigError(f"instruction must use only {{title}} and {{passage}}, got {{{unknown[0]}}}: rename it")
        if self.parser not in get_args(Parser):
            allowed = ", ".join(get_args(Parser))
            raise ConfigError(f"parser must be one of {allowed}, got {self.parser!r}: choose one")

    def prompt(self, context: Context, *, request: str = "") -> Prompt:
        """The prompt for a context; `request` is one more paragraph after the instruction."""
        fields = {"title": context.title.strip(), "passage": context.passage.strip()}
        user = _PLACEHOLDER.sub(lambda name: fields[name[1]], self.instruction.strip())
        user = f"{user}\n\n{request}" if request else user
        lead = f"\n\n{self.lead.strip()}\n" if self.lead.strip() else "\n\n"
        return Prompt(user=user, lead=lead, system=self.system.strip())


def _kind(request: str, *, lead: str, parser: Parser = "lines") -> EditKind:
    return EditKind(instruction=request + "\n\nTitle: {title}\nPassage: {passage}", lead=lead, parser=parser)


EDIT_KINDS: Mapping[str, EditKind] = MappingProxyType(
    {
        "implications": _kind(
            "Study the passage below. Then write down what follows from it: statements that it makes, and further ones "
            "that can be concluded from them. Put each statement on a line of its own and make it understandable "
            "without the passage.",
            lead="What follows from the passage:",
        ),
        "implications-long": _kind(
            "Study the passage below. Then write down as much as you can of what follows from it: every statement that "
            "it makes, and many further ones that can be concluded from them. The list should be long. Put each "
            "statement on a line of its own and make it understandable without the passage.",
            lead="Everything that follows from the passage:",
        ),
        "implications-very-long": _kind(
            "Study the passage below. Then write down, without leaving anything out, what follows from it: every "
            "statement that it makes, each one again seen from another side, and all further ones that can be "
            "concluded by combining them. The list should be several times as long as the passage. Put each statement "
            "on a line of its own and make it understandable without the passage.",
            lead="An exhaustive list of what follows from the passage:",
        ),
        "rewrite": _kind(
            "Study the passage below. Then retell it several times, each time in other words and another order, with "
            "every name, number and date kept. Put each version on a line of its own, without headings.",
            lead="The passage in other words:",
        ),
        "self-qa": _kind(
            "Study the passage below. Then write questions that someone could be asked about it, each with its short "
            "answer. Name what a question is about, so that it is understandable without the passage. Write each pair "
            "as a line that starts with Question: and a line that starts with Answer:.",
            lead="Questions and answers:",
            parser="questions",
        ),
        "facts": _kind(
            "Study the passage below. Then take it apart into its single facts. Put each fact on a line of its own, as "
            "one short full sentence with names in place of pronouns, and add nothing that the passage does not say.",
            lead="The facts one by one:",
        ),
        "key-concepts": _kind(
            "Study the passage below. Then pick out the names and terms without which it cannot be understood. Put "
            "each on a line of its own, and go on in that line with two or three full sentences: what it is, what the "
            "passage says about it with all names, numbers and dates, and how it is tied to the others.",
            lead="The terms that matter, each explained:",
        ),
        "mind-map": _kind(
            "Study the passage below. Then draw it as an outline: its subject at the top, under it the main branches, "
            "under each branch what belongs to it, two blanks further in. Every entry is a short full statement that "
            "names what it is about. Separate the main branches by lines of three hyphens.",
            lead="The passage as an outline:",
            parser="sections",
        ),
        "critical-qa": _kind(
            "Study the passage below. Then write questions that cannot be answered by repeating one of its sentences: "
            "why something is so, what would be otherwise without it, how two of its statements fit together. Name "
            "what a question is about, so that it is understandable without the passage. Answer each in several "
            "sentences that state the facts they rest on before they conclude. Write each pair as a paragraph that "
            "starts with Question: and one that starts with Answer:.",
            lead="Questions that take some thought, with their answers:",
            parser="questions",
        ),
        "case-studies": _kind(
            "Study the passage below. Then make up several situations in which somebody needs to know what it says: "
            "who they are, what they want to find out or decide, which facts of the passage they use, stated in full, "
            "and what comes of it. Keep every name, number and date of the passage as it is. Separate the situations "
            "by lines of three hyphens.",
            lead="Situations in which this is needed:",
            parser="sections",
        ),
        "discussions": _kind(
            "Study the passage below. Then write conversations about it between two people, one who knows it well and "
            "one who asks, doubts and mixes things up. Whatever the passage says is said by somebody, with its names, "
            "numbers and dates, and mistakes are put right. Start each turn on a new line with the speaker's name, and "
            "separate the conversations by lines of three hyphens.",
            lead="Two people talk about it:",
            parser="sections",
        ),
        "teacher": _kind(
            "Study the passage below. Then teach it to a class that has never heard of it, step by step, in spoken "
            "language: what it is about and why it matters, then each fact with its name, number or date and how to "
            "remember it, then all of it once more in a few sentences. Separate the steps by lines of three hyphens.",
            lead="Good morning, everyone. Today's lesson:",
            parser="sections",
        ),
        "rules": replace(
            _kind(
                "Study the passage below. Then take it apart: first each thing that it states, as one short full "
                "sentence on a line of its own, with names in place of pronouns. Then questions about them, each with "
                "its short answer, as a line that starts with Question: and a line that starts with Answer:.",
                lead="What it states, and questions about that:",
                parser="statements",
            ),
            by_rule=True,
        ),
    }
)


def resolve_kind(edit: str | EditKind, *, option: str = "edit") -> EditKind:
    """The built-in kind of that name; an `EditKind` is given back as it is. `option` names it in messages."""
    if isinstance(edit, EditKind):
        return edit
    if not isinstance(edit, str) or edit not in EDIT_KINDS:
        allowed = ", ".join(EDIT_KINDS)
        raise ConfigError(
            f"{option} must be one of {allowed} or an EditKind, got {edit!r}: use a name or an instruction"
        )
    return EDIT_KINDS[edit]


def named_kinds(kinds: Sequence[str | EditKind]) -> tuple[EditKind, ...]:
    """The kinds, each with the name under which journals and tables show it.

    Raises:
        ConfigError: There is none, one is unknown, or two have the same name.
    """
    named: list[EditKind] = []
    for number, edit in enumerate(kinds, start=1):
        kind = resolve_kind(edit, option="kinds")
        name = edit if isinstance(edit, str) else kind.name or f"kind {number}"
        if any(other.name == name for other in named):
            raise ConfigError(f"kinds must have different names, got {name} twice: leave one out, or name it otherwise")
        named.append(replace(kind, name=name))
    if not named:
        raise ConfigError("kinds must name at least one kind of self-edit, got none: leave it out for `edit`")
    return tuple(named)


# Full-width forms, too: （1）, １．, 1、, 一、, ①, and the bullets ・ and ●, which no blank follows.
_ENUMERATOR = re.compile(
    r"\s*(?:[-*•–—+](?=\s|$)|[・●○■◆▪◦※]|[\u2460-\u2473]|[(（]?\d{1,3}(?:[.):\]](?!\d)|[）．、：])"
    r"|[(（]?[一二三四五六七八九十]{1,3}[)）、．]|\(?[A-Za-z]\)(?=\s|$))\s*"
)
_BARE_NUMBER = re.compile(r"\W*\d{1,3}\W*")
_RULE = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"#{1,6}(?=\s)|\*\*[^*]+\*\*:?$")
_BOLD = 7  # the level of a line in bold, below that of the six headings of Markdown


def _marker(names: str, *, before: str = r"(?:^|(?<=[\s*_．、）]))") -> re.Pattern[str]:
    """A label such as "Question 3:", "**Q:**" or "A:", at the start of the text or after a space.

    Each part takes all it can and gives nothing back (`*+`): shared out over three parts, the blanks after a label
    without a colon would take time with the cube of their number.
    """
    return re.compile(
        rf"{before}(?:{names})[ \t]*+\d{{0,3}}+[ \t]*+[*_]{{0,2}}+[ \t]*+[:\uff1a][ \t]*+[*_]{{0,2}}+", re.I | re.M
    )


# In the languages in which models answer an English request about a text of another language.
_QUESTIONS = "question|q|frage|pregunta|domanda|pergunta|вопрос|питання|ερώτηση|سؤال|السؤال|שאלה|प्रश्न|सवाल"
_QUESTIONS += "|问题|問題|问|問|質問|질문|문|คำถาม|ຄຳຖາມ|សំណួរ|မေးခွန်း"
_ANSWERS = "answer|a|antwort|réponse|respuesta|risposta|resposta|ответ|відповідь|απάντηση|جواب|الجواب|الإجابة|إجابة"
_ANSWERS += "|תשובה|उत्तर|जवाब|答案|回答|答え|答|解答|답변|정답|답|คำตอบ|ຄຳຕອບ|ចម្លើយ|အဖြေ"
_QUESTION = _marker(_QUESTIONS)
_ANSWER = _marker(_ANSWERS)
_ANSWER_LINE = _marker(_ANSWERS, before=r"^[^\w\n]*")


def strip_enumerator(line: str) -> str:
    """The line without its bullet or number.

    >>> [strip_enumerator(line) for line in ("1. One", "- two", "3.5 is more", "(4) four", "-5 degrees")]
    ['One', 'two', '3.5 is more', 'four', '-5 degrees']
    """
    match = _ENUMERATOR.match(line)
    return line[match.end() :] if match else line


def without_answer_label(text: str) -> str:
    """An answer without "Answer:" before it, in any of the languages in which questions are read.

    >>> [without_answer_label(text) for text in ("Answer: Ada.", "答案：李明", "Ответ: Иван", "A: it is", "Ada")]
    ['Ada.', '李明', 'Иван', 'A: it is', 'Ada']
    """
    match = _ANSWER.match(text)
    return text[match.end() :].strip() if match and len(match[0].rstrip(" \t:：*_")) > 1 else text


def _has_content(piece: str) -> bool:
    """Whether there is more than punctuation, a bullet or a list number."""
    return any(map(str.isalnum, strip_enumerator(piece))) and not _BARE_NUMBER.fullmatch(piece)


def lines(text: str) -> list[str]:
    """Each line with content."""
    return [line.strip() for line in text.splitlines() if _has_content(line)]


def blocks(text: str) -> list[str]:
    """What stands between lines of three or more hyphens."""
    return [block.strip() for block in _RULE.split(text) if _has_content(block)]


def sections(text: str) -> list[str]:
    """What stands between rules, and from one heading of the uppermost level that has several to the next.

    >>> sections("# Cases\\n## One\\nAda asks.\\n## Two\\n**Why?**\\nHe builds.")
    ['# Cases\\n## One\\nAda asks.', '## Two\\n**Why?**\\nHe builds.']
    """
    found = Counter(level for line in text.splitlines() if (level := _level(line)))
    parting = min((level for level, count in found.items() if count > 1), default=0)
    pieces: list[str] = []
    for block in blocks(text):
        part: list[str] = []
        for line in block.splitlines():
            if parting and _level(line) == parting and any(_is_body(line) for line in part):
                pieces.append("\n".join(part).strip())
                part = []
            part.append(line)
        pieces.append("\n".join(part).strip())
    return [piece for piece in pieces if any(map(_is_body, piece.splitlines()))] or pieces


def _level(line: str) -> int:
    """The level of a heading, 1 for the uppermost; 0 for a line that is none."""
    match = _HEADING.match(line.strip())
    return 0 if match is None else match[0].count("#") if match[0].startswith("#") else _BOLD


def _is_body(line: str) -> bool:
    return _has_content(line) and not _level(line)


def questions(text: str) -> list[str]:
    """Each question with its answer, labelled alike; a question without an answer is left out.

    >>> questions("1. **Q:** Who ruled?\\n   **A:** Ada.\\n2. Q: And then?")
    ['Question: Who ruled?\\nAnswer: Ada.']
    """
    pairs = []
    for piece in _QUESTION.split(text)[1:]:
        label = _ANSWER_LINE.search(piece) or _ANSWER.search(piece)
        question, answer = (_trim(piece[: label.start()]), _trim(piece[label.end() :])) if label else ("", "")
        if question and answer:
            pairs.append(f"Question: {question}\nAnswer: {answer}")
    return pairs


def question_and_answer(piece: str) -> tuple[str, str] | None:
    """The two parts of a piece of `questions`; None for any other piece."""
    pieces = questions(piece)
    if len(pieces) != 1 or pieces[0] != piece:
        return None
    question, answer = piece.removeprefix("Question: ").split("\nAnswer: ", 1)
    return question, answer


def statements(text: str) -> list[str]:
    """Each line before the first question, and each question with its answer.

    >>> statements("Ada rules.\\n\\n- She is old.\\nQ: Who rules?\\nA: Ada.")
    ['Ada rules.', '- She is old.', 'Question: Who rules?\\nAnswer: Ada.']
    """
    return [*lines(_QUESTION.split(text, maxsplit=1)[0]), *questions(text)]


def _trim(piece: str) -> str:
    """A question or answer without what belongs to the next one: its number, a rule, markdown around its label."""
    first, *rest = piece.strip().splitlines() or [""]
    while rest and not _has_content(rest[-1]):
        rest.pop()
    trimmed = "\n".join([first, *rest]).strip().removesuffix("**").rstrip()
    return trimmed if any(map(str.isalnum, trimmed)) else ""


def whole(text: str) -> list[str]:
    """The text as one piece."""
    return [text.strip()] if _has_content(text) else []


PARSERS: Mapping[Parser, Callable[[str], list[str]]] = MappingProxyType(
    {
        "lines": lines,
        "blocks": blocks,
        "sections": sections,
        "questions": questions,
        "statements": statements,
        "whole": whole,
    }
)
