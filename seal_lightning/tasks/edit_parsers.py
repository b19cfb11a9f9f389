"""From the text of a self-edit to its pieces, one training sequence each. Pure functions that accept any text.

What the policy writes is kept as it stands; only pieces without content (numbering, rules, empty lines) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from seal_lightning.tasks.edit_kinds import Parser

# Full-width forms, too: （1）, １．, 1、, 一、, ①, and the bullets ・ and ●, which no blank follows.
_ENUMERATOR = re.compile(
    r"\s*(?:[-*•–—+](?=\s|$)|[・●○■◆▪◦※]|[\u2460-\u2473]|[(（]?\d{1,3}(?:[.):\]](?!\d)|[）．、：])"
    r"|[(（]?[一二三四五六七八九十]{1,3}[)）、．]|\(?[A-Za-z]\)(?=\s|$))\s*"
)
_BARE_NUMBER = re.compile(r"\W*\d{1,3}\W*")
_RULE = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)


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
    {"lines": lines, "blocks": blocks, "questions": questions, "whole": whole}
)
