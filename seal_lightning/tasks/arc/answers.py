"""From what a model wrote to grids: reading, voting, grading, submitting (only a wholly right grid counts).

An answer is one or two grids in the canonical encoding with an empty line between them, the second one a second try. A
text that is not a grid is kept behind the reason why, so that a wrong answer tells what is wrong with it. Kaggle's
competitions take both grids as attempts, at the place where the puzzle has a test's input:

    {"007bbfb7": [{"attempt_1": [[0, 1], ...], "attempt_2": [[1, 0], ...]}, ...], ...}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading.base import Grader, best_over_golds
from seal_lightning.tasks.arc.grids import DIGITS, Grid, GridError, GridText
from seal_lightning.tasks.arc.puzzles import input_of
from seal_lightning.tasks.base import AnswerFile
from seal_lightning.types import Prediction

MALFORMED = "malformed grid, "
TRIES = 2  # grids in an answer; ARC itself allows as many


def first_block(text: str) -> str:
    """The lines of a text up to the first empty one: models go on after their answer."""
    return text.strip().partition("\n\n")[0].strip()


def read_votes(texts: Sequence[str], undo: Sequence[Callable[[Grid], Grid]], text: GridText) -> str:
    """The answer that the most texts agree on, and after it the second one; ties go to the text that came first.

    Args:
        texts: What the model wrote.
        undo: For each text, the function that turns its grid into an answer to the query itself.
        text: The encoding of the texts.
    """
    votes: Counter[Grid] = Counter()
    wrong = ""
    for written, back in zip(texts, undo, strict=True):
        block = first_block(written)
        try:
            votes[back(text.decode(block))] += 1
        except GridError as error:
            wrong = wrong or f"{MALFORMED}{error.reason}:\n{block}"
    best = [DIGITS.encode(grid) for grid, _ in votes.most_common(TRIES)]
    return "\n\n".join(best) or wrong


def candidates(answer: str) -> list[str]:
    """The grids of an answer, best first; none where it is malformed."""
    return [] if not answer.strip() or answer.startswith(MALFORMED) else answer.split("\n\n")


def ranking(votes: Iterable[Sequence[str]]) -> list[str]:
    """The grids from the most frequent first candidate to the least frequent other one; ties to the one seen first."""
    listed = list(votes)
    first, later = Counter(c for vote in listed for c in vote[:1]), Counter(c for vote in listed for c in vote[1:])
    return sorted(dict.fromkeys([*first, *later]), key=lambda grid: (-first[grid], -later[grid]))


def best_tries(answers: Sequence[str], alone: str) -> str:
    """The answer of several adapters: the grids that most of them agree on, then those of the policy alone."""
    grids = dict.fromkeys([*ranking(map(candidates, answers)), *candidates(alone)])
    return "\n\n".join(list(grids)[:TRIES]) or next(filter(None, [*answers, alone]), "")


def reason_of(answer: str) -> str:
    """Why an answer is not a grid; "" for one that is."""
    if not answer.strip():
        return "no grid"
    return answer.partition(":")[0].removeprefix(MALFORMED) if answer.startswith(MALFORMED) else ""


def right_answers(golds: Sequence[str]) -> set[str]:
    """The accepted outputs as `candidates` has grids, however their data has written them.

    Raises:
        GradingError: One is not a grid, so no answer could ever be right.
    """
    try:
        return {DIGITS.encode(DIGITS.decode(gold)) for gold in golds}
    except GridError as error:
        raise GradingError(
            f"cannot grade against a gold answer that is not a grid of digits: {error}; read puzzles with "
            "seal_lightning.data.ArcFiles"
        ) from error


class GridMatch(Grader):
    """1 if the grid is the right one in every cell, else 0.

    Args:
        tries: 2 also lets the second most frequent answer count, where answers vote (`task.votes`).
    """

    def __init__(self, tries: int = 1) -> None:
        if isinstance(tries, bool) or tries not in range(1, TRIES + 1):
            raise ConfigError(f"tries must be 1 or {TRIES}, got {tries!r}: ARC itself allows {TRIES}")
        self.tries = tries

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        del question
        tried = candidates(answer)[: self.tries]
        return best_over_golds(lambda gold, _: float(gold in tried), golds=[*right_answers(golds)], answer=answer)

    def reasons(self, answer: str) -> Mapping[str, float]:
        """Why an answer is not a grid."""
        return {why: -1.0} if (why := reason_of(answer)) else {}


def submission(predictions: Sequence[Prediction]) -> AnswerFile:
    """Kaggle's file, and how many of its attempts are the model's own; the others are the test's input."""
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
    return AnswerFile("submission.json", json.dumps(puzzles) + "\n", said)
