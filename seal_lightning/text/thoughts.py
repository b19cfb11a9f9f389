"""What a model says without what it thinks: thoughts are cut out of every text that a model wrote.

Models that reason first write their thoughts between two marks and then the text that was asked for. Thoughts are not
used for training, queries or grading. Only texts of models are cut; a document may mention a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

HARMONY = "<|channel|>"  # in every thought of gpt-oss, whose other marks mean nothing without it
UNFINISHED = "unfinished thought: raise max_new_tokens or switch thinking off (model.source.template_args)"

# <think>, <thinking>, <thought>, <reasoning>, with a prefix (<seed:think>, <longcat_think>) or bars (<|think|>)
_NAMED = (
    r"<[|\uff5c]?(?P<slash>/)?[|\uff5c]?(?P<name>(?:[a-z]{1,20}[:_-])?(?:think(?:ing)?|thoughts?|reasoning))"
    r"[ \t]{0,3}[|\uff5c]?>"
)
_PAIRS = (
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
_OPENS = {opening.casefold(): number for number, (opening, _) in enumerate(_PAIRS)}
_CLOSES = {closing.casefold(): number for number, (_, closing) in enumerate(_PAIRS)}
_MARK = re.compile("|".join([*(re.escape(mark) for pair in _PAIRS for mark in pair), _NAMED]), re.IGNORECASE)
_NOTHING = re.compile(r"(?:\s|<[^<>\s]{1,40}>)*")  # spaces and other marks, as Seed-OSS's reflection on its budget
_QUOTES = "`\"'“‘«„"  # before a mark that is only mentioned

# gpt-oss writes messages on channels, of which `final` is for the reader (OpenAI's harmony format)
_CHANNEL = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")
_FLAT = re.compile(r"\A\s*(?:analysis|commentary)(?=[^\s.,:;])", re.IGNORECASE)  # the same without its control tokens
_FLAT_FINAL = "assistantfinal"

_WRAPPERS = (
    *((f"<{name}>", f"</{name}>") for name in ("answer", "response", "output", "final", "final_answer", "solution")),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)

_MARKERS = frozenset(mark.removesuffix("thought").casefold() for pair in _PAIRS for mark in pair)


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said.

    Attributes:
        text: The text without thoughts; unchanged if there were none, empty if the last one is unfinished.
        thoughts: How many thoughts were cut out.
        unfinished: Whether the text ends within a thought.
    """

    text: str
    thoughts: int = 0
    unfinished: bool = False


def cut_thoughts(text: str) -> Said:
    """Cut thoughts out of a text that a model wrote, in time proportional to its length.

    A text may begin within a thought that the prompt has opened: then only the closing mark is there. A mark in
    quotation marks or backticks is only mentioned, and so is an opening one within a line that is never closed, if no
    thought came before.

    >>> cut_thoughts("<think>\\nWho was it?\\n</think>\\n\\nIda Kolm")
    Said(text='Ida Kolm', thoughts=1, unfinished=False)
    >>> cut_thoughts("Well, it was Per.</think>Ida Kolm").text
    'Ida Kolm'
    >>> cut_thoughts("<think>\\nWho was")
    Said(text='', thoughts=1, unfinished=True)
    """
    if HARMONY in text:
        return _final_channel(text)
    if _FLAT.match(text) and _FLAT_FINAL in text:
        return Said(text.rpartition(_FLAT_FINAL)[2].strip(), 1)
    kept: list[str] = []
    at, count, within = 0, 0, None
    for mark in _marks(text):
        if within is None and mark.closes:  # the text began within this thought
            kept, at, count = [], mark.end, count + 1
        elif within is None:
            kept.append(text[at : mark.start])
            within, count = mark.kind, count + 1
        elif mark.closes and mark.kind == within:
            at, within = mark.end, None
    if within is not None:
        return Said("", count, unfinished=True)
    return Said(_unwrapped("".join([*kept, text[at:]]).strip()), count) if count else Said(text)


def opened_by(prompt: str) -> str:
    """The end of a prompt that opens a thought for the model to continue; empty if it opens none.

    >>> opened_by("<|im_start|>assistant\\n<think>\\n")
    '<think>\\n'
    """
    end = prompt[-80:]
    last = max(_MARK.finditer(end), key=lambda match: match.start(), default=None)
    if last is None or _read(last)[1] or not _NOTHING.fullmatch(end, last.end()):
        return ""
    return end[last.start() :]


def closing_of(opening: str) -> str:
    """The mark that ends the thought which `opening` begins."""
    match = _MARK.match(opening)
    assert match is not None, "it begins with a mark"
    mark = match[0]
    if (number := _OPENS.get(mark.casefold())) is not None:
        return _PAIRS[number][1]
    return mark.replace("<", "</", 1)


def is_marker(token: str) -> bool:
    """Whether a token of a vocabulary marks thoughts, so that decoding must keep it."""
    return token.casefold() in _MARKERS or _MARK.fullmatch(token) is not None or is_channel(token)


def is_channel(token: str) -> bool:
    """Whether it is one of gpt-oss's marks of messages."""
    return _CHANNEL.fullmatch(token) is not None


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    kind: str | int
    closes: bool


def _read(match: re.Match[str]) -> tuple[str | int, bool]:
    """The kind of a mark, the same for the opening and the closing one, and whether it closes."""
    if match["name"] is not None:
        return "named", match["slash"] is not None  # models mix these names up
    mark = match[0].casefold()
    return (_CLOSES[mark], True) if mark in _CLOSES else (_OPENS[mark], False)


def _marks(text: str) -> Iterator[_Mark]:
    """The marks of a text that are not only mentioned."""
    marks = [_Mark(match.start(), match.end(), *_read(match)) for match in _MARK.finditer(text)]
    last = {mark.kind: mark.start for mark in marks if mark.closes}
    thinks = False
    for mark in marks:
        before = text[max(0, mark.start - 40) : mark.start].rstrip(" \t")
        begins_line = mark.start == 0 or not before or before[-1] in "\r\n"
        quoted = before[-1:] in _QUOTES and text[mark.start - 1] in _QUOTES if before else False
        if not quoted and (thinks or mark.closes or begins_line or last.get(mark.kind, -1) > mark.start):
            thinks = True
            yield mark


def _final_channel(text: str) -> Said:
    """The messages on gpt-oss's channel for the reader."""
    parts = _CHANNEL.split(text)  # text, name, text, name, text, ...
    channel, said, thoughts, unfinished = "", [], 0, False
    for name, piece in zip(parts[1::2], parts[2::2], strict=True):
        if name == "channel":
            channel = piece[:40].strip().casefold()
        elif name == "message" and channel.startswith("final"):
            said.append(piece)
            unfinished = False
        elif name == "message":
            thoughts, unfinished = thoughts + 1, True
    if unfinished or not said:
        return Said("", max(1, thoughts), unfinished=True)
    return Said("".join(said).strip(), thoughts)


def _unwrapped(text: str) -> str:
    """The text without a pair of marks around all that was said after thinking."""
    folded = text[:40].casefold()
    for opening, closing in _WRAPPERS:
        if folded.startswith(opening.casefold()):
            inner = text[len(opening) :].strip()
            if inner[-len(closing) :].casefold() == closing.casefold():
                inner = inner[: -len(closing)]
            return inner.strip()
    return text
