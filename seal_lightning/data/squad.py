"""SQuAD v1 and v2 from the Hugging Face hub or from a file, its questions gathered by passage.

Questions without an answer (v2) cannot score an adaptation: they are skipped and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seal_lightning.data.base import Reader, check_path, unite
from seal_lightning.data.dataset_sources import DatasetSource
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.rows import Row
from seal_lightning.types import Context, Query

log = logging.getLogger(__name__)


class Squad(Reader):
    """Reads SQuAD v1 or v2, and data sets of the same form.

    A JSON file is the official one (`{"data": [{title, paragraphs: [{context, qas: [...]}]}]}`) or has the hub's rows
    (`{title, context, question, answers: {text: [...]}}`); a Parquet file has the hub's rows.

    Args:
        path_or_name: A .json, .jsonl or .parquet file, or a name on the hub such as rajpurkar/squad.
        split: Which split of a data set on the hub; a file is read as a whole.
        version_2: Whether there may be questions without an answer (SQuAD v2): auto and true skip and count them; for
            false they are an error.
    """

    def __init__(self, path_or_name: str, split: str = "train", version_2: bool | Literal["auto"] = "auto") -> None:
        self.path = check_path("path_or_name", path_or_name)
        if not isinstance(split, str) or not split.strip():
            raise ConfigError(f"split must be a name, got {split!r}: try train or validation")
        if version_2 not in (True, False, "auto"):
            raise ConfigError(f"version_2 must be auto, true or false, got {version_2!r}: use auto")
        self.split = split
        self.version_2 = version_2

    def read(self) -> list[Context]:
        gathered = _Gathered(strict=self.version_2 is False)
        for row in self._rows():
            for paragraph in _paragraphs(row) if "paragraphs" in row.values else [row]:
                gathered.add(paragraph)
        contexts = unite(gathered.contexts())
        if not contexts:
            raise DataError(
                f"{self.path}: expected questions with answers, got none in {gathered.asked}: check the data"
            )
        return contexts

    def _rows(self) -> Iterable[Row]:
        is_file = Path(self.path).expanduser().is_file()
        return DatasetSource(self.path, split=None if is_file else self.split).table().rows()


@dataclass(slots=True)
class _Paragraph:
    row: Row
    queries: list[Query] = field(default_factory=list)
    unanswerable: int = 0

    @property
    def is_usable(self) -> bool:
        return bool(self.queries) or not self.unanswerable


class _Gathered:
    """Paragraphs by title and context, in the order of their first question."""

    def __init__(self, *, strict: bool) -> None:
        self.asked = 0
        self._strict = strict
        self._paragraphs: dict[tuple[str, str], _Paragraph] = {}

    def add(self, row: Row) -> None:
        paragraph = self._paragraphs.setdefault((row.title(), row.text("context")), _Paragraph(row))
        for question in row.rows("qas") if "qas" in row.values else [row]:
            self.asked += 1
            if golds := _golds(question):
                paragraph.queries.append(Query(question.text("question"), golds))
            elif self._strict:
                raise question.error(
                    "answers", expected="at least one answer", got="none", advice="remove it, or set version_2 to auto"
                )
            else:
                paragraph.unanswerable += 1

    def contexts(self) -> Iterator[tuple[Row, Context]]:
        """Each paragraph, except those whose questions were all skipped."""
        skipped = sum(paragraph.unanswerable for paragraph in self._paragraphs.values())
        empty = sum(not paragraph.is_usable for paragraph in self._paragraphs.values())
        if skipped:
            left = f", and {empty} passages with no other" if empty else ""
            log.info("skipped %d unanswerable questions of %d%s", skipped, self.asked, left)
        for (title, passage), paragraph in self._paragraphs.items():
            if paragraph.is_usable:
                yield paragraph.row, Context(id="", title=title, passage=passage, queries=tuple(paragraph.queries))


def _paragraphs(article: Row) -> Iterator[Row]:
    """The article's paragraphs, each with the article's title."""
    title = article.title()
    for row in article.rows("paragraphs"):
        yield Row(row.file, row.place, {**row.values, "title": title}, row.within)


def _golds(question: Row) -> tuple[str, ...]:
    """The accepted answers: {text: [...]} as on the hub, or [{text}] as in the official files; none for v2's traps."""
    if question.values.get("is_impossible") is True:
        return ()
    answers = question.values.get("answers")
    if isinstance(answers, Mapping):
        nested = Row(question.file, question.place, answers, f"{question.within}answers.")
        nested.list("text")
        return tuple(dict.fromkeys(nested.texts("text")))
    return tuple(dict.fromkeys(answer.text("text") for answer in question.rows("answers")))
