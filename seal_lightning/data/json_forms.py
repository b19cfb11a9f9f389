"""Finds the reader that rows of JSON need, by the fields of the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.arc_layouts import looks_like_puzzles
from seal_lightning.data.base import Reader
from seal_lightning.data.dataset_rows import DatasetRows
from seal_lightning.data.json_files import Jsonl, SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.errors import DataError
from seal_lightning.files.rows import read_rows


class UnknownForm(DataError):
    """Rows that no reader knows: a package.json, for example."""


def reader_for_json(place: Path, name: str) -> Reader:
    """The reader for a file of JSON or JSON Lines.

    Raises:
        UnknownForm: No reader knows the fields of the first row.
        DataError: The file holds no rows.
    """
    first = read_rows(place)[0]
    fields = first.values.keys()
    if {"passage", "question"} <= fields and "queries" not in fields:
        return DatasetRows(name)
    if "passage" in fields:
        return Jsonl(name)
    if {"context", "questions"} <= fields:
        return SealJson(name)
    if "paragraphs" in fields or ({"context", "question"} <= fields and has_squads_answers(first.values)):
        return Squad(name)
    if {"context", "question"} <= fields:
        return DatasetRows(name)
    if looks_like_puzzles(first.values) or looks_like_puzzles([first.values]):
        return ArcFiles(name)
    expected = "an object with passage, or context and questions (or question: SQuAD), or train and test (ARC)"
    got = f"the fields {', '.join(sorted(fields)[:8]) or '(none)'}"
    advice = "see seal_lightning.data.Jsonl for the simplest format, or name the columns with DatasetRows"
    raise UnknownForm(str(first.error("", expected=expected, got=got, advice=advice)))


def has_squads_answers(values: Mapping[str, object]) -> bool:
    """Whether answers have SQuAD's form: {text: [...]}, or a list of {text}."""
    answers = values.get("answers")
    return isinstance(answers, Mapping) or (isinstance(answers, list) and all(isinstance(a, Mapping) for a in answers))
