"""Two attempts a test, as Kaggle takes them: how answers vote for them, and what stands where there is no grid."""

import json

from seal_lightning.tasks import ArcTask
from seal_lightning.types import Context, Prediction, Query

PASSAGE = "Input:\n1\nOutput:\n2"
BAD = "malformed grid, ragged rows:\n1\n22"


def prediction(answer, *, id="a", asked="12\n34"):
    context = Context(id, id, PASSAGE, (Query(asked, ()),))
    return Prediction(context, context.queries[0], answer, (answer,), "")


def test_the_most_frequent_grids_are_the_attempts():
    task = ArcTask()
    assert task.vote(["1\n\n2", "2", "3", "2\n\n1"], "4") == "2\n\n1"
    assert task.vote(["1", "1"], "4") == "1\n\n4"
    assert task.vote(["1", BAD], "1") == "1"
    assert task.vote([], "4\n\n5") == "4\n\n5"
    assert task.vote([BAD, ""], "") == BAD
    assert task.vote(["", ""], "") == ""


def test_every_attempt_is_a_grid():
    made = ArcTask().answer_file(
        [prediction("21\n43\n\n0"), prediction("7"), prediction(BAD, id="b"), prediction("", id="c")]
    )
    grid = [[1, 2], [3, 4]]
    assert made.name == "submission.json"
    assert json.loads(made.text) == {
        "a": [{"attempt_1": [[2, 1], [4, 3]], "attempt_2": [[0]]}, {"attempt_1": [[7]], "attempt_2": grid}],
        "b": [{"attempt_1": grid, "attempt_2": grid}],
        "c": [{"attempt_1": grid, "attempt_2": grid}],
    }
    assert made.said == (
        "puzzles: 3, tests: 4, with 2 attempts each; 5 of 8 attempts are the test's input, where the model gave no grid"
    )
    assert ArcTask().answer_file([prediction("1\n\n2")]).said == "puzzles: 1, tests: 1, with 2 attempts each"
