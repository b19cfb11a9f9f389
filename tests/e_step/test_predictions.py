"""`seal predict` with answers: queries that nobody knows the answer to, and the file that Kaggle takes."""

import json
from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.tasks import Knowledge

ROOT = Path(__file__).resolve().parents[2]
ARC = ["--config", str(ROOT / "configs" / "arc" / "synthetic_lab.yaml")]
ANSWERS = ["--model.predict", "answers"]


def colours(*numbers):
    """The pair of a 3 x 3 grid and its image under the exchange of 1 and 2."""
    grid = [list(numbers[at : at + 3]) for at in (0, 3, 6)]
    return {"input": grid, "output": [[{1: 2, 2: 1}.get(cell, cell) for cell in row] for row in grid]}


SHOWN = [colours(1, 2, 0, 0, 1, 1, 2, 2, 0), colours(2, 1, 1, 0, 2, 0, 1, 0, 2), colours(0, 0, 1, 2, 1, 2, 1, 2, 2)]
ASKED = [colours(1, 1, 2, 0, 2, 0, 2, 1, 0), colours(2, 0, 2, 1, 1, 1, 0, 0, 2)]
EDIT = (
    '{"basic": false, "size": false, "chained": false, "repeated": false, "loss": "outputs", "learning_rate": 0.001, '
    '"epochs": 2}'
)


def predicted(run, *args):
    assert main(["predict", *args, "--trainer.default_root_dir", str(run), *ANSWERS]) == 0
    return [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]


def is_grid(value):
    return (
        0 < len(value) <= 30 and len({len(row) for row in value}) == 1 and all(c in range(10) for r in value for c in r)
    )


def test_a_submission_of_puzzles_without_outputs(tmp_path, capfd):
    challenges = tmp_path / "arc-agi_test_challenges.json"
    asked = [{"input": test["input"]} for test in ASKED]
    challenges.write_text(
        json.dumps({"two": {"train": SHOWN, "test": asked}, "one": {"train": SHOWN, "test": asked[:1]}})
    )
    reader = {"class_path": "seal_lightning.data.ArcFiles", "init_args": {"path": str(challenges), "edits": [EDIT]}}
    args = [*ARC, "--data.predict", json.dumps(reader), "--model.evaluation.edits", "1"]
    args += ["--model.evaluation_sampler", "seal_lightning.sampling.WrittenEdits"]
    rows = predicted(tmp_path / "run", *args)
    submission = json.loads((tmp_path / "run" / "submission.json").read_text())
    assert {id: len(tests) for id, tests in submission.items()} == {"two": 2, "one": 1}
    for tests in submission.values():
        for test in tests:
            assert list(test) == ["attempt_1", "attempt_2"] and all(map(is_grid, test.values()))
    assert [(row["context_id"], len(row["answers"]), "golds" in row) for row in rows] == [
        ("two", 1, False),
        ("two", 1, False),
        ("one", 1, False),
    ]
    out = capfd.readouterr().out
    assert "2 self-edits, 0 of them rejected" in out
    assert "answers to 3 queries by 2 adapters" in out and "puzzles: 2, tests: 3, with 2 attempts each" in out
    # again: from its journal, the same files
    before = (tmp_path / "run" / "submission.json").read_bytes()
    assert predicted(tmp_path / "run", *args) == rows
    assert (tmp_path / "run" / "submission.json").read_bytes() == before
    assert "predict: 1 of 1 units are in the journal already" in capfd.readouterr().out
    assert not (tmp_path / "run" / "journal").exists()  # which holds what is scored


def test_answers_that_are_not_known_cannot_be_tested(tmp_path, capfd):
    challenges = tmp_path / "challenges.json"
    challenges.write_text(json.dumps({"a": {"train": SHOWN, "test": [{"input": [[1]]}]}}))
    run = ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["test", *ARC, *run, "--data.test", str(challenges)]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == (
        f"seal: data.test={challenges}: expected an answer to every query, got queries without one for 1 of 1 contexts "
        "(first: 'a'): add the answers (of ARC: the file of solutions), or have them answered by seal predict "
        "--model.predict answers"
    )


def test_questions_are_answered_and_can_be_graded_where_answers_are_known(tmp_path, capfd):
    data = ROOT / "configs" / "debug" / "passages-validation.jsonl"
    config = ["--config", str(ROOT / "configs" / "debug" / "random.yaml"), "--data.predict", str(data)]
    rows = predicted(tmp_path / "run", *config, "--model.evaluation.edits", "2")
    contexts = [json.loads(line) for line in data.read_text().splitlines()]
    assert [row["question"] for row in rows] == [query["question"] for one in contexts for query in one["queries"]]
    assert not (tmp_path / "run" / "submission.json").exists()
    capfd.readouterr()
    assert main(["grade", str(tmp_path / "run" / "answers.jsonl")]) == 0
    assert capfd.readouterr().out.count("answer") >= len(rows)


def test_contexts_without_queries_have_nothing_to_answer(tmp_path, capfd):
    (tmp_path / "a.jsonl").write_text('{"title": "T", "passage": "P"}\n')
    config = ["--config", str(ROOT / "configs" / "debug" / "random.yaml"), "--data.predict", str(tmp_path / "a.jsonl")]
    assert main(["predict", *config, *ANSWERS, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert "expected queries for every context, got none for 1 of 1 (first: 'T')" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("answers", "alone", "answer"),
    [(["b", "a", "a"], "c", "a"), (["b", "a"], "c", "b"), ([" ", ""], "c", "c"), ([], "", "")],
)
def test_the_most_frequent_answer_counts(answers, alone, answer):
    assert Knowledge().vote(answers, alone) == answer


@pytest.mark.parametrize(
    ("name", "content", "edits"),
    [("a.csv", "passage,question,answer\nP one,A?,x\nP two,B?,y\n", 4), ("a.txt", "A text.\nIts second line.\n", 2)],
)
def test_a_file_of_data_is_never_read_as_a_file_of_settings(tmp_path, capfd, name, content, edits):
    (tmp_path / name).write_text(content)
    config = ["--config", str(ROOT / "configs" / "debug" / "random.yaml"), "--data.predict", str(tmp_path / name)]
    assert main(["predict", *config, "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    assert capfd.readouterr().out.startswith(f"{edits} self-edits, ")  # drawn at random, some may be rejected


def test_columns_are_named_on_the_command_line(tmp_path, capfd):
    (tmp_path / "a.csv").write_text("body,q,a\nP one,A?,x\nP two,B?,y\n")
    config = ["--config", str(ROOT / "configs" / "debug" / "random.yaml"), "--data.predict", "DatasetRows"]
    options = ["--data.predict.path", str(tmp_path / "a.csv"), "--data.predict.columns", "{passage: body, question: q}"]
    rows = predicted(tmp_path / "run", *config, *options)
    assert [(row["context_id"][:7], row["question"]) for row in rows] == [("context", "A?"), ("context", "B?")]
    options[-1] = "{passage: boddy}"
    assert main(["predict", *config, *options, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == (
        f"seal: {tmp_path}/a.csv: expected a column 'boddy' (columns.passage), got body, q, a: did you mean body?"
    )
