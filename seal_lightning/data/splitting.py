"""Cuts a long text into passages: between sections, blocks and lines where possible, else between sentences and words.

The pieces are the text's own characters: only blank lines around a piece, and white space at a cut within a line, are
left out. `semantic-text-splitter` cuts; markdown-it finds the blocks that do not fit into a passage (code, a table, a
paragraph), which are cut between their lines, as text. Any text may be given: if it is not Markdown, whatever looks
like a heading or a code block counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter

BLANK_LINES_BEFORE = re.compile(r"\A(?:[^\S\n]*\n)+")
LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]+")
REST_OF_LINE = re.compile(r"[^\S\n]*\n")  # of one that ends here
WINDOW = 50  # passages of a long block that are cut at a time: the splitter's time grows with the square of a line
LEAVES = frozenset(["fence", "code_block", "html_block", "paragraph_open", "heading_open", "table_open"])
BLOCKS = MarkdownIt("commonmark").enable("table").disable("inline")


def split(text: str, longest: int) -> list[str]:
    """Pieces of at most `longest` characters, in order, none of them blank."""
    text = without_blank_lines(text)
    if len(text) <= longest:
        return [text] if text.strip() else []
    pieces: list[str] = []
    for part, is_leaf in _parts(text, longest):
        pieces += _cut_leaf(part, longest, pieces) if is_leaf else MarkdownSplitter(longest, trim=False).chunks(part)
    _move_to_line_starts(pieces, longest)
    return [piece for piece in _trimmed(_join_small(pieces, longest)) if piece]


def without_blank_lines(text: str) -> str:
    """The text without blank lines before and after it; the indentation of its first line stays."""
    text = BLANK_LINES_BEFORE.sub("", text)
    end = len(text.rstrip())
    last = text.find("\n", end)  # the end of the last line that is not blank
    return "" if not end else text if last < 0 else text[:last]


def lines_of(text: str) -> list[str]:
    """The lines with their ends, as markdown-it counts them: a carriage return alone ends one, too."""
    return LINE.findall(text)


def _parts(text: str, longest: int) -> Iterator[tuple[str, bool]]:
    """The text in parts, and whether a part is one block that is longer than a passage."""
    lines = lines_of(text)
    done = 0
    for token in BLOCKS.parse(text):
        if token.type not in LEAVES or not token.map:
            continue
        start, end = token.map
        while start > done and not lines[start - 1].strip():  # blank lines before a block count in its piece
            start -= 1
        if start >= done and sum(map(len, lines[start:end])) >= longest:
            if start > done:
                yield "".join(lines[done:start]), False
            yield "".join(lines[start:end]), True
            done = end
    if done < len(lines):
        yield "".join(lines[done:]), False


def _cut_leaf(block: str, longest: int, before: list[str]) -> list[str]:
    """The pieces of a long block; the first joins what leads to it (a heading, "for example:") if that is short."""
    if len(without_blank_lines(block)) <= longest:
        return [block]
    if before and len(before[-1]) <= longest // 4:
        head = TextSplitter(longest - len(before[-1]), trim=False).chunks(block[: WINDOW * longest])[0]
        before[-1] += head
        block = block[len(head) :]
    return _chunks(block, longest)


def _chunks(block: str, longest: int) -> list[str]:
    """The pieces of a block that may be one line of megabytes."""
    splitter = TextSplitter(longest, trim=False)
    pieces: list[str] = []
    at = 0
    while len(block) - at > WINDOW * longest:
        cut = splitter.chunks(block[at : at + WINDOW * longest])[:-1]  # the last one goes on in the next window
        pieces += cut
        at += sum(map(len, cut))
    return [*pieces, *splitter.chunks(block[at:])]


def _move_to_line_starts(pieces: list[str], longest: int) -> None:
    """Move a cut within a line, or within its indentation, to where the line begins; no heading is left alone."""
    for at in range(len(pieces) - 1):
        head, newline, begun = pieces[at].rpartition("\n")
        alone = begun.strip() and len(head) < longest // 4
        if _within_line(pieces[at], pieces[at + 1]) and not alone and len(begun) + len(pieces[at + 1]) <= longest:
            pieces[at : at + 2] = [head + newline, begun + pieces[at + 1]]


def _within_line(before: str, after: str) -> bool:
    return not before.endswith("\n") and not REST_OF_LINE.match(after)


def _join_small(pieces: list[str], longest: int) -> list[str]:
    """Join pieces shorter than a quarter of a passage with a neighbour, if both fit into one."""
    joined: list[str] = []
    for piece in pieces:
        fits = bool(joined) and len(joined[-1]) + len(piece) <= longest
        if fits and min(len(joined[-1]), len(piece)) < longest // 4:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _trimmed(pieces: list[str]) -> Iterator[str]:
    within_line = False  # whether the cut before this piece is within a line
    for piece, after in zip(pieces, [*pieces[1:], "\n"], strict=True):
        text = piece.lstrip() if within_line else piece
        within_line = _within_line(piece, after)
        yield without_blank_lines(text.rstrip() if within_line else text)
