"""Predictions of ARC in the form in which Kaggle's competitions take them: two attempts for every test.

    {"007bbfb7": [{"attempt_1": [[0, 1], ...], "attempt_2": [[1, 0], ...]}, ...], ...}

A test has its attempts at the place where the puzzle has its input. An attempt is always a grid: where the model gave
none, it is the input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from seal_lightning.tasks.arc.answers import TRIES, candidates
from seal_lightning.tasks.arc.grids import DIGITS
from seal_lightning.tasks.arc.puzzles import input_of
from seal_lightning.tasks.base import AnswerFile
from seal_lightning.types import Prediction

NAME = "submission.json"


def submission(predictions: Sequence[Prediction]) -> AnswerFile:
    """The file, and how many of its attempts are the model's own."""
    puzzles: dict[str, list[dict[str, list[list[int]]]]] = {}
    own = 0
    for prediction in predictions:
        grids = [DIGITS.decode(text) for text in candidates(prediction.answer)[:TRIES]]
        own += len(grids)
        grids += [input_of(prediction.query, prediction.context)] * (TRIES - len(grids))
        attempts = {f"attempt_{number}": [list(row) for row in grid] for number, grid in enumerate(grids, start=1)}
        puzzles.setdefault(prediction.context.id, []).append(attempts)
    attempts = TRIES * len(predictions)
    said = f"puzzles: {len(puzzles)}, tests: {len(predictions)}, with {TRIES} attempts each"
    if attempts > own:
        said += f"; {attempts - own} of {attempts} attempts are the test's input, where the model gave no grid"
    return AnswerFile(NAME, json.dumps(puzzles) + "\n", said)
