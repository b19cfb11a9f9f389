"""The kind of a document, by its file's name. Whether the content is text at all shows when it is read."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import Literal

from pygments.lexers import get_all_lexers

from seal_lightning.files.rows import LINES

DocumentKind = Literal["markdown", "text", "code", "table", "rows", "notebook", "html", "pdf", "docx", "epub"]

MARKDOWN = (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd")
TEXT = (".txt", ".text", ".rst", ".rest", ".org", ".adoc", ".asciidoc", ".tex", ".typ", ".log", ".srt", ".vtt")
ROWS = (".json", *LINES)
KINDS: dict[str, DocumentKind] = {
    **dict.fromkeys(MARKDOWN, "markdown"),
    **dict.fromkeys(TEXT, "text"),
    **dict.fromkeys(ROWS, "rows"),
    **dict.fromkeys((".csv", ".tsv"), "table"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".ipynb": "notebook",
    ".pdf": "pdf",
    ".docx": "docx",
    ".epub": "epub",
}
# Pygments can colour these, but they are not meant to be learnt: keys, drawings, and JSON without rows.
NO_CODE = frozenset([".pem", ".svg", ".ps", ".eps", ".json5", ".jsonld", ".aux", ".toc", ".mo"])


def ending(name: str) -> str:
    """A name's ending in lower case, ".md.gz" for "a.md.gz"; "" if the last dot begins none ("notes v1.2")."""
    path = PurePath(name)
    packed = path.suffix.lower() == ".gz"
    suffix = PurePath(path.stem).suffix if packed else path.suffix
    suffix = suffix.lower() if re.fullmatch(r"\.(?=.*[^\W\d])[\w+~-]+", suffix) else ""
    return suffix + ".gz" if packed else suffix


def kind_of(name: str) -> DocumentKind | None:
    """The kind that a name tells: text without an ending (README), None if the ending is not one of documents."""
    suffix = ending(name).removesuffix(".gz")
    if not suffix:
        return "text"
    return KINDS.get(suffix) or ("code" if suffix in _code() else None)


@cache
def _code() -> frozenset[str]:
    """The endings of source code and of configuration files."""
    patterns = (pattern for _, _, patterns, _ in get_all_lexers(plugins=False) for pattern in patterns)
    return frozenset(p[1:].lower() for p in patterns if re.fullmatch(r"\*\.[\w+-]+", p)) - NO_CODE
