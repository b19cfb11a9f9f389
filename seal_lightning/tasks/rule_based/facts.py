"""The facts that a passage states: its sentences, and what headings, tables, lists and code say by their form."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sentencex
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.deflist import deflist_plugin

MARKDOWN = MarkdownIt("commonmark").enable("table").use(deflist_plugin)
NAMED = re.compile(r"[`*_]{0,3}(?P<name>[^\s:.|][^:.|\n]{0,40}?)[`*_]{0,3}\s*[:：]\s+(?P<value>\S.*)")
LONGEST_NAME = 5  # words; more before a colon are a clause
PYTHON = frozenset(["python", "py", "python3", "pycon"])
SIGNATURE = re.compile(r"(?P<name>[A-Za-z_][\w.]*)\s*\((?P<arguments>[^()]*)\)")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Property:
    """A value under a name: of the whole document, or of `owner`, a row of a table or a function of a program.

    Attributes:
        name: What the document calls it: a column, a term, the word before a colon.
        value: What it says.
        owner: Whose it is; empty for the document's own.
        kind: What the owner is: the column of a table that names its rows, `function`, `class`.
    """

    name: str
    value: str
    owner: str = ""
    kind: str = ""


Fact = Sentence | Property


def facts_of(text: str, *, language: str = "en") -> list[Fact]:
    """What a passage states, in its order, without repetitions."""
    return list(dict.fromkeys(_facts(MARKDOWN.parse(text), language)))


def _facts(tokens: Sequence[Token], language: str) -> Iterator[Fact]:
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.type in ("table_open", "dl_open"):
            end = _closing(tokens, place)
            inside = tokens[place + 1 : end]
            yield from _of_table(inside) if token.type == "table_open" else _of_terms(inside, language)
            place = end
        elif token.type in ("fence", "code_block"):
            yield from _of_code(token.content, token.info.strip().split(" ")[0].lower())
        elif token.type == "inline" and tokens[place - 1].type != "heading_open":
            yield from _of_text(token, language)
        place += 1


def _closing(tokens: Sequence[Token], place: int) -> int:
    """Where the block that is opened at `place` is closed."""
    depth = tokens[place].level
    closing = tokens[place].type.replace("_open", "_close")
    return next(at for at in range(place, len(tokens)) if tokens[at].type == closing and tokens[at].level == depth)


def plain(token: Token) -> str:
    """The text of an inline token without its markup; a line break stays one."""
    parts = []
    for child in token.children or []:
        if child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type in ("text", "code_inline", "text_special"):
            parts.append(child.content)
    return "".join(parts).strip()


def _of_text(token: Token, language: str) -> Iterator[Fact]:
    """A paragraph or an item of a list: names with their values, a line each, or sentences."""
    text = plain(token)
    lines = text.splitlines()
    named = [NAMED.fullmatch(line.strip()) for line in lines]
    if lines and all(match and len(match["name"].split()) <= LONGEST_NAME for match in named):
        for match in named:
            assert match is not None
            yield from _named(match["name"], match["value"], language)
        return
    yield from (Sentence(sentence) for sentence in sentences_of(text, language) if any(map(str.isalnum, sentence)))


def sentences_of(text: str, language: str) -> list[str]:
    """The sentences of a text, whatever its lines."""
    segments: list[str] = sentencex.segment(language, " ".join(text.split()))  # pyright: ignore[reportAttributeAccessIssue]
    return [sentence.strip() for sentence in segments]


def _named(name: str, value: str, language: str) -> Iterator[Fact]:
    """A name with its value, of which the first sentence counts; the others are sentences."""
    first, *others = sentences_of(value, language)
    yield Property(name.strip(), first.rstrip(".") if first.count(" ") < 3 else first)
    yield from (Sentence(sentence) for sentence in others if sentence)


def _of_terms(tokens: Sequence[Token], language: str) -> Iterator[Fact]:
    """A list of definitions."""
    term = ""
    for place, token in enumerate(tokens):
        if token.type == "inline" and tokens[place - 1].type == "dt_open":
            term = plain(token)
        elif token.type == "inline" and term:
            yield from _named(term, " ".join(plain(token).split()), language)


def _of_table(tokens: Sequence[Token]) -> Iterator[Fact]:
    """A table whose first column names the rows."""
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(plain(token))
    header, *body = rows or [[]]
    for row in body:
        for name, value in zip(header[1:], row[1:], strict=False):
            if row[0] and value:
                column = name or header[0]
                yield Property(column, value, owner=row[0], kind=header[0]) if column else Property(row[0], value)


def _of_code(code: str, language: str) -> Iterator[Fact]:
    """The functions and classes of a program, as their signatures and docstrings say."""
    if language in PYTHON or not language:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a document's code, which never runs
                tree = ast.parse(code)
            yield from _of_python(tree)
            return
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    for line in code.splitlines():
        match = SIGNATURE.search(line)
        if match and language and match["arguments"].strip():
            yield Property("arguments", " ".join(match["arguments"].split()), owner=match["name"], kind="function")


def _of_python(tree: ast.Module, owner: str = "") -> Iterator[Fact]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _described(node, node.name, "class")
            yield from _of_python(ast.Module(node.body, []), f"{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = owner + node.name
            yield from _described(node, name, "function")
            yield from _signature(node, name)


def _described(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, kind: str) -> Iterator[Fact]:
    if text := ast.get_docstring(node):
        yield Property("description", " ".join(text.split("\n\n")[0].split()), owner=name, kind=kind)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Fact]:
    given = [*node.args.posonlyargs, *node.args.args]
    own = [each for each in [*given, *node.args.kwonlyargs] if each.arg not in ("self", "cls")]
    if own:
        yield Property("arguments", ", ".join(each.arg for each in own), owner=name, kind="function")
    if node.returns is not None:
        yield Property("return type", ast.unparse(node.returns), owner=name, kind="function")
    values = list(zip(given[len(given) - len(node.args.defaults) :], node.args.defaults, strict=True))
    values += [(each, value) for each, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value]
    for each, value in values:
        yield Property(f"default of {each.arg}", ast.unparse(value).strip("'\""), owner=name, kind="function")
