"""Answers in a file, with a judge's verdicts where it has them: what `seal grade` and the fit read.

A row is {question, gold or golds, answer, correct}; `correct` may be left out. An answer may be empty: models do that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seal_lightning.files.rows import read_rows
from seal_lightning.grading.base import Answer
from seal_lightning.text.thoughts import Said, cut_thoughts


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer and whether a judge calls it right; None where no judge was asked.

    `said` is what became of the answer's thoughts: its text is without them.
    """

    answer: Answer
    correct: bool | None = None
    said: Said | None = None


def read_judged(path: Path, *, verdicts: bool = False) -> list[Judged]:
    """The rows of a file.

    Args:
        path: JSON Lines or a JSON list, packed if it ends in .gz.
        verdicts: Whether every row needs `correct`.

    Raises:
        DataError: The file or a row of it cannot be used.
    """
    read = []
    for row in read_rows(path):
        text, correct = row.values.get("answer"), row.values.get("correct")
        if not isinstance(text, str):
            advice = "an empty answer is written as two quotes"
            raise row.error("answer", expected="text", got=row.got("answer"), advice=advice)
        said = cut_thoughts(text)
        answer = Answer(row.text("question"), row.golds("gold", "golds"), said.text)
        if not isinstance(correct, bool) and (verdicts or correct is not None):
            advice = "give the judge's verdict"
            raise row.error("correct", expected="true or false", got=row.got("correct"), advice=advice)
        read.append(Judged(answer, correct, said))
    return read
