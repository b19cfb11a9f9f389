"""The title of a Markdown document, and the passage to learn.

Front matter (YAML between `---`, TOML between `+++`, or JSON) is data: its `title` is the title, and none of it stays
in the passage. Without one, the title is the first heading. The passage is the text as written, without the heading
that opens it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import pairwise, takewhile

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from seal_lightning.data.splitting import BLOCKS, lines_of, without_blank_lines
from seal_lightning.files.bounded_yaml import load_yaml

MOST_TOML = 10_000  # characters: tomllib takes time with the square of the dots of a key
LONGEST_TITLE = 200  # characters; anything longer that looks like a heading is a paragraph above a rule
# As in pandoc, the line after the opening marker must not be blank, else `---` is a rule. The markers are searched one
# by one: with both in one expression, a text without the second would be searched again from every line.
OPENING = re.compile(r"(?:[^\S\n]*\n)*(---|\+\+\+)[^\S\n]*\n(?![^\S\n]*\n)")
CLOSING = {"---": re.compile(r"^(?:---|\.\.\.)[^\S\n]*$", re.M), "+++": re.compile(r"^\+\+\+[^\S\n]*$", re.M)}
# A line that invalid YAML may hold, such as `title: The mill: a history`.
YAML_LINE = re.compile(r"""#.*|-(?:\s.*)?|["']?\w[\w .-]*+["']?\s*+:(?:\s.*)?|\s.*|""")
TOML_LINE = re.compile(
    r"""#.*|\[.*\]\s*|["']?\w[\w .-]*+["']?\s*+=\s*+[^=\s].*|\s.*|"""
)  # the same, such as `title = The mill`
HEADING_ID = re.compile(r"(?<!\s)\s*+\{#[^{}]*\}\s*$")  # of pandoc and Docusaurus: # The mill {#mill}
HTML_HEADING = re.compile(r"<h1\b[^<>]*>(.*?)</h1>", re.S | re.I)
INLINE = MarkdownIt("commonmark")


def read_markdown(text: str) -> tuple[str, str]:
    """The title ("" without one) and the passage ("" if nothing is left to learn)."""
    front, text = front_matter(text)
    heading, text = _first_heading(text)
    titles = (value for key, value in front.items() if key.lower() == "title" and isinstance(value, str))
    title = next((" ".join(value.split()) for value in titles if value not in ("~", "null")), "")
    return title or heading, without_blank_lines(text)


def front_matter(text: str) -> tuple[Mapping[str, object], str]:
    """The front matter and the text after it; without front matter, nothing and the whole text."""
    opening = OPENING.match(text)
    if opening and (closing := CLOSING[opening[1]].search(text, opening.end())):
        read = _yaml if opening[1] == "---" else _toml
        values = read(text[opening.end() : closing.start()])
        if values is not None:
            return values, text[closing.end() + 1 :]
    if text.startswith("{\n"):
        return _json(text)
    return {}, text


def _yaml(text: str) -> Mapping[str, object] | None:
    """The values of YAML; None if it is not a mapping: the text between two rules, for example."""
    try:
        values = load_yaml(text, loader=yaml.BaseLoader)  # scalars stay texts: no date is wrong, and `no` is a title
    except yaml.YAMLError:
        lines = text.split("\n")
        if not all(YAML_LINE.fullmatch(line) for line in lines):
            return None
        return _pairs((line for line in lines if not line.startswith((" ", "#", "-"))), ":")
    return {} if values is None or values == "" else values if isinstance(values, dict) else None


def _pairs(lines: Iterable[str], separator: str) -> Mapping[str, str]:
    pairs = (line.partition(separator) for line in lines)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _toml(text: str) -> Mapping[str, object] | None:
    try:
        if len(text) > MOST_TOML:
            raise ValueError("too long to be front matter")
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        lines = text.split("\n")
        if not all(TOML_LINE.fullmatch(line) for line in lines):
            return None
        own = takewhile(lambda line: not line.startswith("["), lines)  # what follows belongs to a table
        return _pairs((line for line in own if not line.startswith((" ", "#"))), "=")


def _json(text: str) -> tuple[Mapping[str, object], str]:
    try:
        values, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return {}, text
    return (values, text[end:]) if any(key.lower() == "title" for key in values) else ({}, text)


def _first_heading(text: str) -> tuple[str, str]:
    """The first heading with a text, and the document, without this heading if it opens the document."""
    tokens = BLOCKS.parse(text)
    in_comment = False  # %% ... %% of Obsidian, which may go over several blocks
    for token, inline in pairwise([*tokens, *tokens[-1:]]):
        if token.type == "inline" and token.level == 1:
            in_comment ^= token.content.count("%%") % 2 == 1
        if token.type == "html_block" and (title := _title_of_html(token.content)):
            return title, text
        if token.type == "heading_open" and token.level == 0 and token.map and not in_comment:
            title = _plain(inline)
            if title and len(title) <= LONGEST_TITLE and "\n" not in inline.content:
                kept = lines_of(text)
                without = "".join(kept[: token.map[0]] + kept[token.map[1] :])
                return title, without if token is tokens[0] else text
    return "", text


def _plain(inline: Token) -> str:
    """A heading's words without emphasis, links and other marks."""
    (parsed,) = INLINE.parseInline(HEADING_ID.sub("", inline.content))
    words = "".join(" " if child.type == "softbreak" else child.content for child in parsed.children or [])
    return " ".join(re.sub(r"<[^<>]*>", "", words).split())


def _title_of_html(block: str) -> str:
    """The title of a README that centres it in HTML instead of a heading."""
    last = block.lower().rfind("</h1>")  # behind it each <h1> would be searched for an end in vain
    if last < 0 or block.lstrip().startswith("<!--"):
        return ""
    heading = HTML_HEADING.search(block[: last + len("</h1>")])
    return " ".join(re.sub(r"<[^<>]*>", "", heading[1]).split()) if heading else ""
