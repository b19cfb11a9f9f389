"""Every function that reads a text of a model, a server or a document, and texts that make parsers slow.

`python benchmarks/foreign_text.py` reads a megabyte of each text with each function and prints the slowest text of
each; `tests/test_foreign_text.py` does the same with shorter ones. A regular expression that searches for an end from
every beginning takes quadratic time on such a text, or worse: hours for a megabyte.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seal_lightning.data import columns, conversion, documents, json_files, markdown, separated, splitting
from seal_lightning.data.base import context_id
from seal_lightning.data.dataset_sources import HUB_NAME
from seal_lightning.data.formats import kind_of
from seal_lightning.data.text_folder import HEADINGS
from seal_lightning.data.text_folder import _title as text_title
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.errors import SealError
from seal_lightning.files import rows
from seal_lightning.grading import F1, Calibrated, Contains, ExactMatch, Recall
from seal_lightning.grading.asking import read_option
from seal_lightning.grading.scripts import asks, count_words, spaced
from seal_lightning.grading.stems import begins_with_prefix, ends_with_particles, stem_of
from seal_lightning.grading.words import all_words, content_words, latin_words, other_words, said_words
from seal_lightning.options.mistakes import explain, locate, one_line
from seal_lightning.results.diversity import distinct_ngrams
from seal_lightning.tasks import Knowledge
from seal_lightning.tasks.arc.answers import GridMatch, first_block
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit
from seal_lightning.tasks.arc.grids import DIGITS, GridError
from seal_lightning.tasks.base import first_line
from seal_lightning.tasks.directives import DirectiveLimits, split_directives
from seal_lightning.tasks.edit_kinds import PARSERS, EditKind, strip_enumerator, without_answer_label
from seal_lightning.tasks.layer_choice import read_choice
from seal_lightning.tasks.rule_based.writer import write_by_rule
from seal_lightning.text.escaping import markdown_cell, sound, visible
from seal_lightning.text.thoughts import cut_thoughts, opened_by
from seal_lightning.types import Context, Query

Read = Callable[[str], object]
MEGABYTE = 1_000_000
CONTEXT = Context("mill", "The mill", "Ida Kolm built the mill in 1803.", (Query("Who built it?", ("Ida Kolm",)),))

# A text is what comes first, what is repeated, and what comes last.
TEXTS: Mapping[str, tuple[str, str, str]] = {
    "blanks": ("", " ", "x"),
    "tabs": ("a", "\t", "x"),
    "line breaks": ("", "\n", "x"),
    "blank lines": ("x", " \n", "x"),
    "carriage returns": ("", "\r", "x"),
    "no-break spaces": ("x", "\u00a0", "x"),
    "one letter": ("", "a", ""),
    "capitals": ("", "A", "a"),
    "initials": ("", "A.", "1"),
    "digits": ("", "7", ""),
    "thousands": ("", "1,", "x"),
    "numbers": ("", "12 ", ""),
    "decimals": ("", "1.", ""),
    "underscores": ("", "_", ":"),
    "asterisks": ("", "*", "x"),
    "hyphens": ("", "-", "x"),
    "spaced hyphens": ("---", " -", "x"),
    "rules": ("", "---\n", "x"),
    "plus signs": ("+++\n", "+", ""),
    "full stops": ("a", ".", "x"),
    "question marks": ("", "?", "x"),
    "closers": ("a", ")", "x"),
    "sentences": ("", "Ida built it. ", ""),
    "question and blanks": ("Question", " ", "x"),
    "question and stars": ("Question", "* ", "x"),
    "questions": ("", "Question: a\n", ""),
    "question labels": ("", "Question ", "x"),
    "questions and answers": ("", "Question: Who?\nAnswer: Ida.\n", ""),
    "answer and blanks": ("Question: a\n", " ", "Answer"),
    "punctuated answer lines": ("Question: a\n", "-*", "Answer: b"),
    "numbered lines": ("", "1. a\n", ""),
    "enumerators": ("", "(1) ", ""),
    "braces": ("", "{", "x"),
    "braces and epochs": ("", "{epochs", ""),
    "objects in objects": ("", '{"a":', ""),
    "directive objects": ("", '{"epochs": 1} ', ""),
    "closing braces": ("{", "}", ""),
    "brackets": ("", "[", ""),
    "bracket pairs": ("", "[]", "("),
    "parentheses": ("a ", "(", "x"),
    "full-width parentheses": ("a", "（", "x"),
    "quotes": ("", '"', "x"),
    "single quotes": ("", "'", "x"),
    "curly quotes": ("", "\u201c\u2019", "x"),
    "backslashes": ('"', "\\", "x"),
    "backticks": ("", "`", "x"),
    "backtick runs": ("", "`` ` ", "x"),
    "open fences": ("", "```\n", "x"),
    "fence and blanks": ("```", " ", "x"),
    "fences before a directive": ("``` ", "\n", '{"epochs": 1'),
    "less-than signs": ("", "<", "x"),
    "open tags": ("", "<a ", "x"),
    "open headings": ("", "<h1>", "x"),
    "headings in HTML": ("<h1", " a", "<h1>"),
    "nested tags": ("<html><body>", "<div>", "x"),
    "nested emphasis in HTML": ("<html><body>", "<b><i>", "x"),
    "code in HTML": ("<html><body><pre>a", " ", "x</pre>"),
    "lines of code in HTML": ("<html><body><pre>a", "\n ", "x</pre>"),
    "nested lists in HTML": ("<html><body>", "<ul><li>", "x"),
    "nested tables in HTML": ("<html><body>", "<table><tr><td>", "x"),
    "nested quotes in HTML": ("<html><body>", "<blockquote>", "x"),
    "links": ("<html><body>", '<a href="http://a">x</a>', ""),
    "comments": ("", "<!--", "x"),
    "declarations": ("", "<?xml ?>", "x"),
    "entities": ("<html>", "&amp;", "&"),
    "thoughts": ("", "<think>", "x"),
    "closed thoughts": ("", "</think>", "x"),
    "thoughts, opened and closed": ("", "<think>a</think>", "x"),
    "quoted thoughts": ("", "`<think>", "x"),
    "channels": ("", "<|channel|>", "x"),
    "messages": ("<|channel|>", "analysis<|message|>", "x"),
    "flat analysis": ("analysis", " ", "assistantfinal"),
    "seed think": ("<", "a:", "think>"),
    "nested lists": ("", "- ", "x"),
    "deeper lists": ("", "- a\n  ", "x"),
    "nested quotes": ("", "> ", "x"),
    "headings": ("", "# ", "x"),
    "heading ids": ("# a ", "{#", "x"),
    "heading and blanks": ("# a", " ", "{"),
    "underlined headings": ("", "a\n=\n", ""),
    "equals signs": ("a\n", "=", "x"),
    "table pipes": ("|a|b|\n|-|-|\n", "|", "x"),
    "table rows": ("|a|b|\n|-|-|\n", "|a|b|\n", ""),
    "table of one row": ("", "|a", "\n|-|-|\n"),
    "references": ("", "[a]: b\n", ""),
    "open links": ("", "[a](", "x"),
    "images": ("", "![", "x"),
    "emphasis": ("", "*a _b ", "x"),
    "front matter": ("---\n", "a: b\n", "---\n"),
    "open front matter": ("---\n", "a: b\n", ""),
    "front matter without YAML": ("---\n", "a a: b: [\n", "---\n"),
    "front matter, one key": ("---\n", "a ", "\n---\n"),
    "front matter, colons": ("---\na", ":", "\n---\n"),
    "front matter in TOML": ("+++\n", "a = b\n", "+++\n"),
    "dotted keys in TOML": ("+++\n", "a.", "a = 1\n+++\n"),
    "arrays in TOML": ("+++\na = ", "[", "\n+++\n"),
    "tables in TOML": ("+++\n", "[a]\n", "+++\n"),
    "front matter, brackets": ("---\na: ", "[", "\n---\n"),
    "front matter in JSON": ("{\n", '"a":{', ""),
    "blanks before front matter": ("", " \n", "---\na: b\n"),
    "Obsidian comments": ("", "%% ", "x"),
    "commas": ("a,b\n", ",", "x"),
    "semicolons": ("", ";", "x"),
    "quoted cells": ('a,b\n"', '""', "x"),
    "separators": ("sep=", ",", "\n"),
    "numbers in words": ("", "twenty-", "one"),
    "percent signs": ("", "% ", "x"),
    "ordinals": ("", "1st", "x"),
    "stop words": ("", "of the ", ""),
    "list of items": ("", "a, b and c or d; ", ""),
    "hundreds": ("", "2 hundred ", ""),
    "possessives": ("", "a's", ""),
    "years": ("", "1803-1805 ", ""),
    "combining marks": ("a", "\u0301", "x"),
    "marks of two classes": ("a", "\u0301\u0316", "x"),
    "marks of two kinds": ("a", "\uff9e\u0301", "x"),
    "composed letters": ("", "\u01d6", "x"),
    "ligatures": ("", "\ufdfa", "x"),
    "zero width": ("a", "\u200b", "x"),
    "joiners": ("a", "\u200d", "x"),
    "right to left": ("", "\u202e", "x"),
    "Arabic": ("", "\u0627\u0644", " "),
    "Hebrew prefixes": ("", "\u05d5", "\u05d0\u05d1\u05d2"),
    "Korean particles": ("\uc11c\uc6b8", "\uc740\ub294", ""),
    "Chinese": ("", "\u6c34\u8f66", ""),
    "Chinese and digits": ("", "\u6c341", ""),
    "Japanese": ("", "\u304b", ""),
    "Thai": ("", "\u0e01\u0e34", ""),
    "Cyrillic": ("", "\u0430", ""),
    "Cyrillic words": ("", "\u0432\u043e\u0434\u0430\u043c\u0438 ", ""),
    "Greek questions": ("", "\u03b1;", ";"),
    "Hindi": ("", "\u0915\u093f", ""),
    "emoji": ("", "\U0001f468\u200d", "x"),
    "surrogates": ("", "\ud800", "x"),
    "controls": ("", "\x1b[", "x"),
    "null bytes": ("", "\0", "x"),
    "grid rows": ("", "123\n", ""),
    "grid of one row": ("", "1", "\n2"),
    "long list in JSON": ("[", "[1],", "1]"),
    "nested lists in JSON": ("", "[", "1"),
    "long text in JSON": ('{"passage": "', "a", '"}'),
    "escapes in JSON": ('{"passage": "', "\\u0061", '"}'),
    "lines of JSON": ("", '{"passage": "a"}\n', ""),
    "printed lists": ("[", "'a' ", "]"),
    "printed numbers": ("", "1+", "1"),
    "printed signs": ("", "-", "1"),
    "got": ("a must be got ", "got ", "got"),
    "parser keys": ("", 'Parser key "', "a"),
    "nested arguments": ("", "NestedArg(key='", "x"),
    "expected types": ("Expected a typing.Literal[", "a", ""),
    "expected a": ("", "Expected a ", "x"),
    "subtypes": ("", "Subtypes: <class '", "x"),
    "addresses": ("", "a@", "x"),
    "URLs": ("", "http://", "x"),
    "keys": ("", "sk-", "x"),
    "mixed": ("", "a1 -_.(", "x"),
}


def text_of(name: str, length: int = MEGABYTE) -> str:
    """The text with this name, of about this many characters."""
    first, repeated, last = TEXTS[name]
    return first + repeated * max(1, (length - len(first) - len(last)) // len(repeated)) + last


def _of_file(read: Callable[[Path], object], suffix: str) -> Read:
    def reads(text: str) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"text{suffix}"
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            return read(path)

    return reads


def _grid(text: str) -> object:
    try:
        return DIGITS.decode(first_block(text))
    except GridError as error:
        return error


def _graded(grader: Any, *, given: str) -> Read:
    def grade(text: str) -> object:
        parts = {"question": "Who built it?", "gold": "Ida Kolm", "answer": "Ida Kolm", given: text}
        return grader.grade(question=parts["question"], golds=[parts["gold"]], answer=parts["answer"])

    return grade


def _notebook(path: Path) -> object:
    cells = [{"cell_type": kind, "source": path.read_text(errors="replace")} for kind in ("markdown", "code")]
    path.write_text(json.dumps({"cells": cells}))
    return conversion.convert(path, "notebook")


def _queries(text: str) -> object:
    return QueryWriter()._filtered(text, CONTEXT)


def _cell(text: str) -> object:
    return columns.unpacked(rows.Row(Path("a.csv"), "line 2", {"a": text}), "a", text)


_RECALL, _CALIBRATED = Recall(), Calibrated()
READERS: Mapping[str, Read] = {
    **{f"tasks.edit_kinds.{name}": parse for name, parse in PARSERS.items()},
    "tasks.rule_based": lambda text: [write_by_rule(replace(CONTEXT, passage=text), index) for index in range(3)],
    "results.diversity": lambda text: distinct_ngrams([text]),
    "tasks.edit_kinds.strip_enumerator": strip_enumerator,
    "tasks.edit_kinds.without_answer_label": without_answer_label,
    "tasks.edit_kinds": lambda text: EditKind("{passage} " + text),
    "tasks.directives": split_directives,
    "tasks.layer_choice": read_choice,
    "tasks.base.first_line": first_line,
    "tasks.Knowledge.read_edit": lambda text: Knowledge(
        strip_numbering=True, directives=DirectiveLimits(layers=("depth",))
    ).read_edit(text, CONTEXT),
    "tasks.Knowledge.read_answer": Knowledge().read_answer,
    "tasks.arc.edit": lambda text: read_edit(text, ArcLimits()),
    "tasks.arc.grids": _grid,
    "tasks.arc.answers.GridMatch": lambda text: GridMatch().grade(question="", golds=["1"], answer=text),
    "thoughts.cut_thoughts": cut_thoughts,
    "thoughts.opened_by": opened_by,
    "questions": _queries,
    "grading.asking": lambda text: read_option(text, ("no", "yes")),
    "grading.words.content_words": content_words,
    "grading.words.all_words": all_words,
    "grading.words.said_words": said_words,
    "grading.words.latin_words": latin_words,
    "grading.words.other_words": other_words,
    "grading.scripts.asks": asks,
    "grading.scripts.count_words": count_words,
    "grading.scripts.spaced": spaced,
    "grading.stems.stem_of": stem_of,
    "grading.stems.begins_with_prefix": lambda text: begins_with_prefix(text, text[-3:]),
    "grading.stems.ends_with_particles": lambda text: ends_with_particles(text, text[:2]),
    **{
        f"grading.{type(grader).__name__}, {given}": _graded(grader, given=given)
        for grader in (_RECALL, _CALIBRATED, ExactMatch(), F1(), Contains())
        for given in ("question", "gold", "answer")
    },
    "data.markdown": markdown.read_markdown,
    "data.splitting": lambda text: splitting.split(text, 2000),
    "data.separated": lambda text: separated.separator_of(text, "a.csv"),
    "data.conversion, table": lambda text: conversion._table(text, Path("a.csv")),
    "data.conversion, HTML": _of_file(lambda path: conversion.convert(path, "html"), ".html"),
    "data.conversion, notebook": _of_file(_notebook, ".ipynb"),
    "data.rows, JSON": _of_file(rows.read_rows, ".json"),
    "data.rows, JSON Lines": _of_file(rows.read_rows, ".jsonl"),
    "data.documents, text": _of_file(lambda path: documents.read_sources([str(path)]).documents, ".txt"),
    "data.documents, table": _of_file(lambda path: documents.read_sources([str(path)]).documents, ".csv"),
    "data.documents, rows": _of_file(lambda path: documents.read_sources([str(path)]).documents, ".jsonl"),
    "data.documents, stdin": lambda text: (
        documents.read_sources(["-"], stdin=text.encode("utf-8", "replace")).documents
    ),
    "data.documents.PAGE": documents.PAGE.match,
    "data.json_files": _of_file(json_files._passages, ".txt"),
    "data.columns, cells": _cell,
    "data.base.context_id": lambda text: context_id(text.encode("utf-8", "replace").decode(), ""),
    "data.formats.kind_of": lambda text: kind_of(f"a.{text}"),
    "data.dataset_sources.HUB_NAME": HUB_NAME.fullmatch,
    **{f"data.text_folder, {suffix}": (lambda text, suffix=suffix: text_title(text, suffix)) for suffix in HEADINGS},
    "escaping.visible": visible,
    "foreign.sound": sound,
    "escaping.markdown_cell": lambda text: markdown_cell(text, 100),
    "config_errors.explain": explain,
    "config_errors.locate": lambda text: locate(text, {"a": {"b": 1}}),
    "config_errors.one_line": one_line,
}


def reading(name: str, text: str) -> str:
    """What went wrong when a function read a text; "" if it was read, or refused with an error of ours."""
    try:
        READERS[name](text)
    except SealError:
        return ""
    except UnicodeEncodeError as error:  # a document has no halves of surrogate pairs: its bytes could not be decoded
        return "" if any("\ud800" <= character <= "\udfff" for character in text) else repr(error)
    except Exception as error:  # what is looked for
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=MEGABYTE, help="characters of a text")
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| function | slowest text | seconds | all texts, seconds |\n|---|---|---|---|")
    failed = 0
    for name in options.readers:
        seconds = {}
        for text in TEXTS:
            made = text_of(text, options.length)
            started = time.process_time()
            fault = reading(name, made)
            seconds[text] = time.process_time() - started
            if fault:
                failed += 1
                print(f"{name}, {text}: {fault}", file=sys.stderr, flush=True)
        slowest = max(seconds, key=seconds.__getitem__)
        print(f"| {name} | {slowest} | {seconds[slowest]:.2f} | {sum(seconds.values()):.1f} |", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
