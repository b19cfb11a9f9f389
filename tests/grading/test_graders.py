import subprocess
import sys

import pytest

import seal_lightning.grading as grading
from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading import F1, Contains, ExactMatch, Recall, new_content_recall, resolve

ALL = [Recall(), Contains(), ExactMatch(), F1()]


def grade(grader, answer, *golds, question="What is it?"):
    return grader.grade(question=question, golds=golds, answer=answer)


@pytest.mark.parametrize(
    ("question", "gold", "answer", "share"),
    [
        ("How many?", "1,000 men", "1000 men", 1.0),
        ("How many?", "twenty", "About 20 of them.", 1.0),
        ("Which one?", "the third", "It was the 3rd.", 1.0),
        ("Which war did Ada end?", "the Second Punic War", "the 2nd war", 0.5),
        ("Was it red or blue?", "red", "It was red.", 1.0),
        ("Was it red or blue?", "red", "It was blue.", 0.0),
        ("Who has the army?", "the king's armies", "A king.", 1.0),
        ("Where?", "Orl\u00e9ans", "in ORLEANS", 1.0),
        ("Who?", "them", "It was them.", 1.0),
        ("Who?", "them", "It was us.", 0.0),
        ("Which sign?", "+", "a + sign", 1.0),
        ("Which sign?", "+", "a minus sign", 0.0),
        ("Which sign?", "", "a minus sign", 0.0),
        ("Who?", "art", "the party", 0.0),
    ],
)
def test_new_content_recall(question, gold, answer, share):
    assert new_content_recall(question=question, gold=gold, answer=answer) == share


def test_recall_compares_the_share_with_its_threshold():
    answer = "one red ship"
    assert grade(Recall(), answer, "two red ships") == 0.0
    assert grade(Recall(threshold=0.5), answer, "two red ships") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("the Seine", "It is Seine, a river.", 1.0),
        ("art", "party", 0.0),
        ("Marie Curie", "Curie, Marie", 0.0),
        ("bread and wine", "the bread and the wine", 1.0),
        ("the", "the end", 1.0),
        ("+", "a + b", 1.0),
        ("", "anything", 0.0),
    ],
)
def test_contains(gold, answer, expected):
    assert grade(Contains(), answer, gold) == expected


def test_exact_match_and_f1_follow_squad():
    assert grade(ExactMatch(), "The Seine.", "seine") == 1.0
    assert grade(ExactMatch(), "River Seine", "Seine") == 0.0
    assert grade(F1(), "River Seine", "Seine") == pytest.approx(2 / 3)
    assert grade(F1(threshold=0.6), "River Seine", "Seine") == 1.0
    assert grade(F1(threshold=0.7), "River Seine", "Seine") == 0.0


@pytest.mark.parametrize("grader", ALL, ids=lambda grader: type(grader).__name__)
def test_best_gold_counts_and_an_empty_answer_is_nothing(grader):
    assert grade(grader, "Seine", "Rhine", "Seine") == 1.0
    assert grade(grader, "Seine", "Rhine", "Danube") == 0.0
    assert grade(grader, "", "Seine") == 0.0
    assert grade(grader, " \n", "", "the") == 0.0


@pytest.mark.parametrize("grader", ALL, ids=lambda grader: type(grader).__name__)
def test_no_golds_is_a_failure_and_not_a_score(grader):
    with pytest.raises(GradingError, match="gold answers"):
        grade(grader, "Seine")


@pytest.mark.parametrize("grader", [Recall, F1])
@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan"), True, "half"])
def test_threshold_is_validated(grader, threshold):
    with pytest.raises(ConfigError, match=r"threshold must be .* got"):
        grader(threshold=threshold)


@pytest.mark.parametrize(
    ("name", "kind"), [("recall", Recall), ("contains", Contains), ("exact_match", ExactMatch), ("f1", F1)]
)
def test_resolve_short_names(name, kind):
    assert type(resolve(name)) is kind


def test_resolve_keeps_a_grader_and_names_the_choices():
    mine = Recall(threshold=0.5)
    assert resolve(mine) is mine
    for wrong in ("rouge", None, Recall):
        with pytest.raises(ConfigError, match="recall, contains, exact_match, f1"):
            resolve(wrong)


def test_importing_graders_and_tasks_stays_light():
    code = (
        f"import sys, {grading.__name__}, seal_lightning.tasks;"
        "sys.exit(bool({'torch', 'torchmetrics', 'lightning'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
