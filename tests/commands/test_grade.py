"""`seal grade` from the command line, in this process."""

import gzip
import json

import pytest

from seal_lightning.cli import main

ROWS = [
    {"question": "Which river is it?", "gold": "the Seine", "answer": "The Seine.", "correct": True},
    {"question": "Which river is it?", "gold": "the Seine", "answer": "The Rhine.", "correct": False},
    {"question": "Which river is it?", "golds": ["the Seine", "Seine river"], "answer": "", "correct": False},
    {
        "question": "Which river is it?",
        "gold": "the Seine",
        "answer": "That of [bold]Paris[/bold]\x1b[2J.",
        "correct": True,
    },
]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="answers.jsonl"):
        path = tmp_path / name
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return str(path)

    return write


def without_verdicts():
    return [{name: value for name, value in row.items() if name != "correct"} for row in ROWS]


def test_verdicts_with_probability_and_reasons(write, capsys):
    assert main(["grade", write(without_verdicts())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1.00 (9") and lines[0].endswith("%)  Which river is it?")
    assert lines[1:3] == ["    gold    the Seine", "    answer  The Seine."]
    assert lines[3].startswith("    reasons ") and "same_phrase +" in lines[3]
    assert "    gold    the Seine | Seine river" in lines and "    answer  (nothing)" in lines
    assert "    answer  That of [bold]Paris[/bold]⟨U+001B⟩[2J." in lines


def test_verdicts_as_json_lines(write, capsys):
    assert main(["grade", write(without_verdicts()), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["score"] for row in found] == [1.0, 0.0, 0.0, 0.0]
    assert found[0]["question"] == "Which river is it?" and 0.9 < found[0]["probability"] <= 1.0
    assert len(found[0]["reasons"]) == 5 and "correct" not in found[0]


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.jsonl.gz"])
def test_agreement_as_json(write, capsys, name):
    assert main(["grade", write(ROWS, name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["agreement"], found["kappa"]) == (4, 0.75, 0.5)
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
    assert 0.0 < found["calibration_error"] < 0.5


def test_agreement_with_the_worst_examples(write, capsys):
    assert main(["grade", write(ROWS), write(ROWS, "again.jsonl"), "--grader", "recall", "--examples", "1"]) == 0
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[:4]] == [
        ["n", "8"], ["agreement", "75.0%"], ["kappa", "0.500"], ["calibration", "error", "0.250"]
    ]  # fmt: skip
    assert said.count("judge: right") == 1 and "[bold]Paris[/bold]⟨U+001B⟩[2J." in said


def test_a_grader_by_class_path_with_options(write, capsys):
    options = ["--grader", "seal_lightning.grading.Recall", "--grader.threshold", "0.5"]
    assert main(["grade", write(ROWS), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == 0.75


def test_a_grader_from_a_config(write, capsys, tmp_path):
    config = tmp_path / "grader.yaml"
    config.write_text("grader: {class_path: seal_lightning.grading.Calibrated, init_args: {soft: true}}\njson: true\n")
    assert main(["grade", write(without_verdicts()), "--config", str(config)]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["score"] == first["probability"] < 1.0


@pytest.mark.parametrize("name", ["out.jsonl", "deep/er/out.jsonl.gz"])
def test_output_has_every_row_with_its_verdict(write, capsys, tmp_path, name):
    assert main(["grade", write(ROWS), "--output", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out.startswith("n ")
    content = (tmp_path / name).read_bytes()
    found = [json.loads(line) for line in (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()]
    assert [row["correct"] for row in found] == [True, False, False, True]
    assert [row["score"] for row in found] == [1.0, 0.0, 0.0, 0.0]
    assert found[2]["gold"] == ["the Seine", "Seine river"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "FILE is not set"),
        (["{answers}", "--grader", "rouge"], "grader must be one of"),
        (["{answers}", "--grader", "recall", "--grader.threshold", "2"], "threshold"),
        (["{answers}", "--examples", "-1"], "examples must be at least 0"),
        (["{answers}", "--output", "{answers}"], "expected another file than the one that was read"),
        (["{folder}/nowhere.jsonl"], "nowhere.jsonl: expected a file"),
        (["{mixed}"], "field correct must be in every row or in none, but is in 1 of 2"),
        (["{broken}"], "line 2: field answer must be text, got the number 3"),
        (["{answers}", "--colour", "red"], "--colour"),
    ],
)
def test_mistakes_are_one_line(write, tmp_path, capsys, args, message):
    paths = {
        "answers": write(ROWS),
        "mixed": write([ROWS[0], without_verdicts()[1]], "mixed.jsonl"),
        "broken": write([ROWS[0], {**ROWS[1], "answer": 3}], "broken.jsonl"),
        "folder": str(tmp_path),
    }
    assert main(["grade", *(arg.format(**paths) for arg in args)]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_help(capsys):
    assert main(["grade", "--help"]) == 0
    assert "--grader" in capsys.readouterr().out
