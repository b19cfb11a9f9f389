import json

import pytest

from seal_lightning.commands.fit_grader import fit, held_out, main, measure_all, split
from seal_lightning.errors import DataError
from seal_lightning.grading import Calibrated
from seal_lightning.grading.agreement import compare
from seal_lightning.records.judged import read_judged

RIVERS = "Seine Rhine Danube Elbe Oder Volga Loire Tagus Ebro Po Don Main Neckar Isar Inn".split()


def rows():
    for place, river in enumerate(RIVERS):
        question = f"Which river flows through town {place}?"
        for answer in (river, f"The {river} does.", f"It is the {river}, I believe."):
            yield {"question": question, "gold": f"the {river}", "answer": answer, "correct": True}
        for wrong in (RIVERS[place - 1], f"The {RIVERS[place - 2]} does.", "No river flows there.", ""):
            yield {"question": question, "gold": f"the {river}", "answer": wrong, "correct": False}


@pytest.fixture
def verdicts(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def test_a_fit_from_a_file_to_a_grader(verdicts, tmp_path, capsys):
    path = tmp_path / "own.json"
    assert main([str(verdicts), "-o", str(path)]) == 0
    said = capsys.readouterr().out
    assert "105 verdicts on 15 questions (0 verdicts excluded)" in said
    assert "mean of held-out thirds: agreement 1.0000, kappa 1.0000" in said
    own = Calibrated(coefficients=str(path))
    assert own.grade(question="Which river?", golds=["the Ganges"], answer="The Ganges.") == 1.0
    assert own.grade(question="Which river?", golds=["the Ganges"], answer="The Indus.") == 0.0
    first = path.read_bytes()
    main([str(verdicts), "-o", str(path)])
    assert path.read_bytes() == first


def test_questions_of_a_run_are_left_out(verdicts, tmp_path, capsys):
    asked = [{"rep": 0, "question": f"Which river flows through town {place}?", "answer": "x", "baseline_answer": "",
              "adapter_answer": "", "baseline_correct": False, "adapter_correct": False}
             for place in range(3)]  # fmt: skip
    run = {
        "articles": [{"title": "T", "context": "C", "prompt": "P", "completions": [{"text": "E", "questions": asked}]}]
    }
    path = tmp_path / "run_1.json"
    path.write_text(json.dumps(run), encoding="utf-8")
    assert main([str(verdicts), "-o", str(tmp_path / "own.json"), "--exclude", str(path)]) == 0
    assert "84 verdicts on 12 questions (21 verdicts excluded)" in capsys.readouterr().out
    assert json.loads((tmp_path / "own.json").read_text())["fitted_on"] == {"verdicts": 84, "questions": 12}


def test_a_question_never_stands_on_both_sides(verdicts):
    measured = measure_all(read_judged(verdicts, verdicts=True))
    tested = split(measured.questions, seed=0)
    sides = [
        {question for question, here in zip(measured.questions, tested, strict=True) if here == side} for side in (0, 1)
    ]
    assert not sides[0] & sides[1] and len(sides[1]) == 5
    assert list(split(measured.questions, seed=0)) == list(tested) != list(split(measured.questions, seed=1))


def test_held_out_answers_without_words_are_wrong(verdicts):
    measured = measure_all(read_judged(verdicts, verdicts=True))
    assert measured.has_words.sum() == 90
    assert held_out(measured, seed=0).n == 35
    assert fit(measured) == fit(measured)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "gold": "x", "answer": "y"}, "line 1: field correct must be true or false, got nothing"),
        ({"question": "?", "gold": "x", "answer": "y", "correct": 1}, "field correct must be true or false"),
        ({"question": "?", "gold": "x", "correct": True}, "field answer must be text, got nothing"),
        ({"gold": "x", "answer": "y", "correct": True}, "field question must be text"),
        ({"question": "?", "answer": "y", "correct": True}, "field gold or golds must be"),
    ],
)
def test_rows_are_checked(tmp_path, capsys, row, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_judged(path, verdicts=True)
    assert main([str(path), "-o", str(tmp_path / "own.json")]) == 2
    assert capsys.readouterr().err.startswith(f"fit: {path}, line 1")


def test_too_few_questions_are_said_so(tmp_path, capsys):
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps(next(rows())) + "\n", encoding="utf-8")
    assert main([str(path), "-o", str(tmp_path / "own.json")]) == 2
    assert "expected right and wrong answers to at least 3 questions, got 1" in capsys.readouterr().err


def test_agreement_by_hand():
    found = compare([0.9, 0.8, 0.3, 0.2], [True, True, False, False], [True, False, True, False])
    assert (found.n, found.agreement, found.kappa) == (4, 0.5, 0.0)
    assert (found.precision, found.recall, found.right, found.graded_right) == (0.5, 0.5, 0.5, 0.5)
    assert found.calibration_error == pytest.approx((0.1 + 0.8 + 0.7 + 0.2) / 4)
    always = compare([1.0], [True], [True])
    assert (always.agreement, always.kappa, always.calibration_error) == (1.0, None, 0.0)
    never = compare([0.0], [False], [False])
    assert (never.precision, never.recall) == (None, None)
