"""From the text of a self-edit to its pieces, one training sequence each. Pure functions that accept any text.

What the policy writes is kept as it stands; only pieces without content (numbering, rules, empty lines) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from seal_lightning.tasks.edit_kinds import Parser

_ENUMERATOR = re.compile(r"\s*(?:[-*•–—+](?=\s|$)|\(?\d{1,3}[.):\]](?!\d)|\(?[A-Za-z]\)(?=\s|$))\s*")
_BARE_NUMBER = re.compile(r"\W*\d{1,3}\W*")
_RULE = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)


def _marker(names: str, *, before: str = r"(?:^|(?<=[\s*_]))") -> re.Pattern[str]:
    """A label such as "Question 3:", "**Q:**" or "A:", at the start of the text or after a space."""
    return re.compile(
        rf"{before}(?:{names})[ \t]*\d{{0,3}}[ \t]*[*_]{{0,2}}[ \t]*[:\uff1a][ \t]*[*_]{{0,2}}", re.I | re.M
    )


_QUESTION = _marker("question|q")
_ANSWER = _marker("answer|a")
_ANSWER_LINE = _marker("answer|a", before=r"^[^\w\n]*")


def strip_enumerator(line: str) -> str:
    """The line without its bullet or number.

    >>> [strip_enumerator(line) for line in ("1. One", "- two", "3.5 is more", "(4) four", "-5 degrees")]
    ['One', 'two', '3.5 is more', 'four', '-5 degrees']
    """
    match = _ENUMERATOR.match(line)
    return line[match.end() :] if match else line


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
