"""Which reader rows of JSON need, by the fields of the first."""

from __future__ import annotations

from pathlib import Path

from seal_lightning.data.arc import ArcFiles, looks_like_puzzle
from seal_lightning.data.base import Reader
from seal_lightning.data.jsonl import Jsonl
from seal_lightning.data.rows import read_rows
from seal_lightning.data.seal_json import SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.errors import DataError


class UnknownForm(DataError):
    """JSON that none of the readers knows: a package.json, for example."""


def reader_for_json(place: Path, name: str) -> Reader:
    """The reader for a file of JSON or JSON Lines.

    Raises:
        UnknownForm: The first row has the fields of none.
        DataError: The file holds no rows.
    """
    first = read_rows(place)[0]
    fields = first.values.keys()
    if "passage" in fields:
        return Jsonl(name)
    if {"context", "questions"} <= fields:
        return SealJson(name)
    if "paragraphs" in fields or {"context", "question"} <= fields:
        return Squad(name)
    if looks_like_puzzle(first.values) or any(map(looks_like_puzzle, first.values.values())):
        return ArcFiles(name)
    expected = "an object with passage, or context and questions (or question: SQuAD), or train and test (ARC)"
    got = f"the fields {', '.join(sorted(fields)[:8]) or '(none)'}"
    advice = "see seal_lightning.data.Jsonl for the simplest format"
    raise UnknownForm(str(first.error("", expected=expected, got=got, advice=advice)))
