"""The authors' evaluations of continued pre-training: their accuracies, their table, and what is wrong with a file."""

import gzip
import json

import pytest

from seal_lightning.cli import main
from seal_lightning.errors import DataError
from seal_lightning.records.continued import read_continued

CONTENT = {
    "timestamp": "0730_190125",
    "n_articles": 200,
    "k_completions": 5,
    "train_sequences": 1200,
    "eval_questions": 4,
    "model": "Qwen/Qwen2.5-7B",
    "metrics": {"baseline_accuracy": 0.25, "adapter_accuracy": 0.75, "adapter_gain": 0.5},
    "per_question": {
        "baseline_texts": ["a", "b", "c", "d"],
        "adapter_texts": ["a", "b", "c", "d"],
        "baseline_correct": [True, False, False, False],
        "adapter_correct": [True, True, True, False],
    },
    "args": {"lr": 7e-05},
}
TABLE = """\
| continued pre-training | contexts | edits of each | sequences | queries | before | after |
| ---------------------- | -------- | ------------- | --------- | ------- | ------ | ----- |
| own                    | 200      | 5             | 1,200     | 4       | 25.0%  | 75.0% |
| passages               | 200      | 0             |           | 4       |        | 50.0% |
"""


def changed(**fields):
    return {**CONTENT, **fields}


def write(path, content):
    text = json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def files(tmp_path):
    """Two evaluations: one that was also asked before, and one that was not."""
    inside = {"baseline_texts": None, "baseline_correct": None, "adapter_correct": [True, True, False, False]}
    passages = {**CONTENT, "k_completions": 0, "per_question": inside, "metrics": {"adapter_accuracy": 0.5}}
    passages.pop("train_sequences")
    return [write(tmp_path / "own.json", CONTENT), write(tmp_path / "passages.json.gz", passages)]


def test_the_table_and_the_published_figures(files, capfd):
    assert main(["replay", *map(str, files)]) == 0
    out = capfd.readouterr().out
    assert out.startswith(TABLE)
    assert "own: 3 of 3 published figures reproduced to 4 digits" in out
    assert "passages: 1 of 1 published figures reproduced to 4 digits" in out


def test_a_figure_that_the_verdicts_do_not_give_is_told(tmp_path, capfd):
    path = write(tmp_path / "own.json", changed(metrics={"adapter_accuracy": 0.8}))
    assert main(["replay", str(path)]) == 0
    told = "own: 0 of 1 published figures reproduced to 4 digits; adapter_accuracy 0.7500 (published: 0.8000)"
    assert told in capfd.readouterr().out


def test_it_stands_beside_other_runs_and_in_json(files, two_rounds, capfd):
    assert main(["replay", str(files[0]), str(two_rounds / "journal" / "train-000"), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [run["after"] for run in report["continued"]] == [0.75]
    assert list(report["figures"]) == ["train-000"]


@pytest.mark.parametrize("option", [["--grader", "contains"], ["--sft", "kept.jsonl"], ["--reward", "{score: 1.0}"]])
def test_without_rollouts_there_is_nothing_to_choose_from(files, option, capfd):
    assert main(["replay", str(files[0]), *option]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"seal: {option[0]}: expected rollouts, got evaluations of continued pre-training alone")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(per_question=[]), "field per_question must be an object, got a list"),
        (changed(per_question={}), r"field per_question.adapter_correct must be a list, got nothing"),
        (changed(per_question={"adapter_correct": []}), "adapter_correct must be at least one verdict, got an empty"),
        (changed(per_question={"adapter_correct": [True, "yes"]}), r"adapter_correct\[1\] must be true, false or a sc"),
        (
            changed(per_question={"adapter_correct": [True], "baseline_correct": [True, False]}),
            "baseline_correct must be a verdict for each query, got 2 beside 1",
        ),
        (changed(n_articles="many"), "field n_articles must be a whole number from 0, got"),
        (changed(metrics=3), "field metrics must be an object, got"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_continued(write(tmp_path / "own.json", content))


def test_files_of_another_form_are_left_to_others(tmp_path):
    assert read_continued(write(tmp_path / "run.json", {"articles": []})) is None


def test_the_published_table_is_drawn_to_the_digit(shared, capfd):
    """Base 32.0, passages 36.0, own edits 50.6, pairs 46.2, with triples 56.0, SEAL 58.2, GPT-4.1's edits 59.4."""
    names = ("base", "enti-pair", "enti-pair+triple", "gpt4_1", "iter2", "naive")
    folder = shared / "data" / "seal-2025-08"
    paths = [str(folder / "cpt-200" / f"{name}_200.json") for name in names]
    assert main(["replay", *paths, str(folder / "generative-adapter.json.gz")]) == 0
    out = capfd.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()[2:9]]
    assert [(row[5], row[6]) for row in cells] == [
        ("32.0%", "50.6%"),
        ("", "46.2%"),
        ("", "56.0%"),
        ("", "59.4%"),
        ("", "58.2%"),
        ("", "36.0%"),
        ("26.8%", "28.0%"),
    ]
    assert [row[3] for row in cells] == ["1,200", "1,247", "2,300", "1,282", "1,200", "200", ""]
    assert out.count("published figures reproduced") == 7 and "; adapter_accuracy" not in out
