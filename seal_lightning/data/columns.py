"""From the columns of a data set to contexts: which column holds what, and how a cell is read.

A column is named as it is, with dots into nested ones (`answers.text`); in a list a dot leads into each of its items. A
row has one passage and one question, or a list of questions with a list of answers beside it. Rows without a passage, a
question or an answer are skipped and counted.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from seal_lightning.data.base import did_you_mean, some
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.rows import Row, describe
from seal_lightning.types import Context, Query

PASSAGES, QUESTIONS, ANSWERS = ("passage", "context"), ("question",), ("answers", "answer")
OPTIONS = ("choices", "options", "endings")  # names of columns with the texts to choose from
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each part of a context; those that are None are not read."""

    passage: str
    title: str | None = None
    question: str | None = None
    answers: str | None = None
    choices: str | None = None
    labels: str | None = None
    id: str | None = None
    edits: str | None = None

    @staticmethod
    def of(given: Mapping[str, str]) -> Columns:
        """The columns of an option.

        Raises:
            ConfigError: The option names an unknown part, no passage, or a part without the one it belongs to.
        """
        parts = [part.name for part in fields(Columns)]
        for part, column in given.items():
            if part not in parts:
                advice = did_you_mean(str(part), parts, otherwise="use some of them")
                raise ConfigError(f"columns must name {', '.join(parts)}, got {part!r}: {advice}")
            if not isinstance(column, str) or not column.strip():
                raise ConfigError(f"columns.{part} must be the name of a column, got {column!r}: or leave it out")
        needs = {"passage": None, "answers": "question", "choices": "answers", "labels": "choices"}
        for part, other in needs.items():
            needed, asked_by = (part, "every context") if other is None else (other, part)
            if needed not in given and (other is None or part in given):
                raise ConfigError(f"columns.{needed} must be set for {asked_by}, got {', '.join(given)}: add it")
        return Columns(**given)

    @staticmethod
    def guessed(names: Sequence[str]) -> Columns | None:
        """Columns by the names that most data sets use; None if passage, question or answers are missing."""
        by_name = {name.casefold(): name for name in reversed(names)}
        wanted = (PASSAGES, ("title",), QUESTIONS, ANSWERS)
        passage, title, *asked = (next((by_name[name] for name in known if name in by_name), None) for known in wanted)
        return None if passage is None or None in asked else Columns(passage, title, *asked)

    def named(self) -> dict[str, str]:
        """The columns that are set, by part."""
        return {part.name: column for part in fields(self) if (column := getattr(self, part.name)) is not None}

    def check(self, names: Sequence[str], rows: Sequence[Row], *, source: str) -> None:
        """Check by the first rows that the columns are there.

        Raises:
            DataError: One is missing; the message lists those that are there.
        """
        for part, column in self.named().items():
            if column not in names and not any(_has(row.values, column) for row in rows):
                nested = [name for row in rows[:1] for name in _paths(row.values)]
                known = list(dict.fromkeys([*names, *nested]))
                advice = did_you_mean(column, known, otherwise=f"set columns.{part} to one of them")
                listed = some(known, 16) or "no columns"
                raise DataError(f"{source}: expected a column {column!r} (columns.{part}), got {listed}: {advice}")
        if self.answers and not self.choices and (name := _options_beside(self, names, rows)):
            raise DataError(
                f"{source}: expected answers as text in {self.answers}, got labels or numbers beside the column "
                f"{name}: set columns.choices to {name}, and columns.labels where it has them"
            )


@dataclass
class RowReader:
    """Turns rows into contexts; `skipped` counts what was left out, by reason."""

    columns: Columns
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    strict: bool = False
    rows: int = 0
    numbers: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def contexts(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Context]]:
        """The context of each row that has what it needs."""
        for row in rows:
            self.rows += 1
            passage = _passage(row, self.columns.passage)
            if not passage.strip():
                self._skip(row, self.columns.passage, "rows without a passage")
                continue
            queries = tuple(self._queries(row))
            if queries or not self.columns.question:
                yield row, Context(self._one(row, "id"), self._one(row, "title"), passage, queries, self._edits(row))

    def _skip(self, row: Row, column: str, what: str) -> None:
        if self.strict:
            raise row.error(column, expected="text", got="nothing", advice="fill it in, or set missing to skip")
        self.skipped[what] += 1

    def _queries(self, row: Row) -> Iterator[Query]:
        column = self.columns.question
        if column is None:
            return
        questions = unpacked(row, column, reach(row.values, column))
        listed = questions if isinstance(questions, list) else [questions]
        if not listed:
            self._skip(row, column, "rows without a question")
        answers = self._beside(row, self.columns.answers, questions, len(listed))
        choices = self._beside(row, self.columns.choices, questions, len(listed))
        labels = self._beside(row, self.columns.labels, questions, len(listed))
        for number, question in enumerate(listed):
            text = self._text(row, column, question)
            if not text.strip():
                self._skip(row, column, "questions without a text")
            elif self.columns.answers is None:
                yield Query(text, ())
            elif golds := self._golds(row, answers[number]):
                if self.columns.choices:
                    options = _Options.of(row, self.columns, choices[number], labels[number])
                    text, texts = options.asked(text), [options.chosen(row, gold) for gold in golds]
                else:
                    texts = [self._text(row, self.columns.answers, gold) for gold in golds]
                yield Query(text, tuple(dict.fromkeys(texts)))
            else:
                self._skip(row, self.columns.answers, "questions without an answer")

    def _beside(self, row: Row, column: str | None, questions: object, count: int) -> list[object]:
        """One cell for each of a row's questions."""
        value = None if column is None else unpacked(row, column, reach(row.values, column))
        if column is None or not isinstance(questions, list):
            return [value] * max(1, count)
        if isinstance(value, Mapping) and "text" in value:
            value = value["text"]
        if count == 1 and not (isinstance(value, list) and len(value) == 1):
            return [value]
        if not isinstance(value, list) or len(value) != count:
            got = f"a list of {len(value)}" if isinstance(value, list) else describe(value)
            expected = f"a list of {count}, one for each question"
            raise row.error(column, expected=expected, got=got, advice="name a column that has one for each")
        return value

    def _golds(self, row: Row, value: object) -> list[str | int | float]:
        """The accepted answers in a cell: one, a list, or an object with them in `text`; none if it is empty."""
        column = self.columns.answers or ""
        value = unpacked(row, column, value)
        if isinstance(value, Mapping):
            if "text" not in value:
                raise _not_text(row, column, value)
            value = value["text"]
        golds = [self._gold(row, column, item) for item in (value if isinstance(value, list) else [value])]
        return [gold for gold in golds if gold is not None and not _is_missing(gold)]

    def _gold(self, row: Row, column: str, item: object) -> str | int | float | None:
        item = item["text"] if isinstance(item, Mapping) and "text" in item else item
        if isinstance(item, bool) or not isinstance(item, str | int | float | None):
            advice = "write it in words" if isinstance(item, bool) else "name a column of texts"
            raise row.error(column, expected="text", got=describe(item), advice=advice)
        names = self.classes.get(column, ())
        return names[item] if isinstance(item, int) and 0 <= item < len(names) else item

    def _one(self, row: Row, part: str) -> str:
        column = getattr(self.columns, part)
        return "" if column is None else self._text(row, column, reach(row.values, column))

    def _edits(self, row: Row) -> tuple[str, ...]:
        column = self.columns.edits
        value = None if column is None else reach(row.values, column)
        listed = value if isinstance(value, list) else [value]
        return tuple(self._text(row, column or "", item) for item in listed if not _is_missing(item))

    def _text(self, row: Row, column: str, value: object) -> str:
        """A text, or a number as text; "" for a missing one."""
        if _is_missing(value):
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers += 1
            return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        return _checked(row, column, value)


@dataclass(frozen=True, slots=True)
class _Options:
    """The texts to choose from, and the label of each."""

    texts: Sequence[str]
    labels: Sequence[str]

    @staticmethod
    def of(row: Row, columns: Columns, texts: object, labels: object) -> _Options:
        column = columns.choices or ""
        texts = unpacked(row, column, texts)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise row.error(column, expected="a list of texts", got=describe(texts), advice="name another column")
        if columns.labels is None:
            return _Options(texts, LETTERS[: len(texts)])
        if not isinstance(labels, list) or len(labels) != len(texts):
            got, advice = describe(labels), "name another column"
            raise row.error(columns.labels, expected=f"a list of {len(texts)} labels", got=got, advice=advice)
        return _Options(texts, [str(label) for label in labels])

    def asked(self, question: str) -> str:
        """The question, followed by the choices."""
        return " ".join([question.strip(), *(f"({a}) {b}" for a, b in zip(self.labels, self.texts, strict=False))])

    def chosen(self, row: Row, answer: str | int | float) -> str:
        """The text of the right choice, by its text, its label, or its number from 0 on."""
        if isinstance(answer, int) and 0 <= answer < len(self.texts) and str(answer) not in self.labels:
            return self.texts[answer]
        if str(answer) in self.texts:
            return str(answer)
        if str(answer) in self.labels:
            return self.texts[self.labels.index(str(answer))]
        got = f"{describe(answer)} beside {', '.join(self.labels)}"
        raise row.error("answers", expected="a choice, its label or its number", got=got, advice="set columns.labels")


def reach(value: object, column: str) -> object:
    """The content of a column, None if it has none; of a list, the content in each item."""
    if isinstance(value, list):
        return [reach(item, column) for item in value]
    if not isinstance(value, Mapping):
        return None
    if column in value:
        return value[column]
    head, dot, rest = column.partition(".")
    return reach(value[head], rest) if dot and head in value else None


def _has(value: object, column: str) -> bool:
    """Whether there is such a column, empty or not."""
    if isinstance(value, list):
        return any(_has(item, column) for item in value)
    if not isinstance(value, Mapping):
        return False
    head, dot, rest = column.partition(".")
    return column in value or bool(dot and head in value and _has(value[head], rest))


def _paths(value: object, before: str = "") -> Iterator[str]:
    if isinstance(value, list) and value:
        yield from _paths(value[0], before)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield f"{before}{name}"
            yield from _paths(item, f"{before}{name}.")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value  # NaN


def _passage(row: Row, column: str) -> str:
    """A text, or paragraphs: a list of texts, or of lists of sentences."""
    value = reach(row.values, column)
    if isinstance(value, list):
        parts = [
            " ".join(" ".join(_texts(row, column, part)).split()) if isinstance(part, list) else part for part in value
        ]
        return "\n\n".join(_texts(row, column, parts))
    if isinstance(value, Mapping):
        raise _not_text(row, column, value)
    return "" if _is_missing(value) else _checked(row, column, value)


def _not_text(row: Row, column: str, value: Mapping[str, object]) -> DataError:
    advice = f"name one of them, such as {column}.{next(iter(value), 'text')}"
    return row.error(column, expected="text", got=f"an object with {', '.join(value)}", advice=advice)


def _texts(row: Row, column: str, parts: Sequence[object]) -> list[str]:
    return [_checked(row, column, part) for part in parts if not _is_missing(part)]


def _checked(row: Row, column: str, value: object) -> str:
    return Row(row.file, row.place, {column: value}).text(column, may_be_blank=True)


def unpacked(row: Row, column: str, value: object) -> object:
    """The list of texts or objects that a cell holds as text, in JSON or as Python prints it; else the value."""
    if not isinstance(value, str) or value.strip()[:1] + value.strip()[-1:] not in ("[]", "{}"):
        return value
    for read in (parse_json, _of_python):
        try:
            content = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        listed = content if isinstance(content, list) else [content]
        if listed and all(isinstance(item, str | list | dict) for item in listed):
            return content
    if "array(" in value or value.strip().startswith(("['", '["', "{'", '{"')):
        advice = "save the data as Parquet or JSON Lines, which keep lists"
        raise row.error(column, expected="text or a list", got=describe(value), advice=advice)
    return value


def _of_python(text: str) -> object:
    """The value that Python printed; a `ValueError` for ['a' 'b'], NumPy's form, which would be read as 'ab'."""
    value = ast.literal_eval(text)
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL]
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):
        raise ValueError("expected commas between texts")
    return value


def _options_beside(columns: Columns, names: Sequence[str], rows: Sequence[Row]) -> str | None:
    """The unnamed column of choices that answers refer to by labels or numbers, if there is one."""
    beside = next((name for name in names if name.casefold() in OPTIONS and name not in columns.named().values()), None)
    values = [reach(row.values, columns.answers or "") for row in rows]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value]) if item is not None]
    labels = {*LETTERS, *LETTERS.lower(), *map(str, range(10))}
    return beside if flat and all(not isinstance(item, bool) and str(item).strip() in labels for item in flat) else None
