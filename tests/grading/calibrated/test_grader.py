import json
import pickle

import numpy as np
import pytest

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading import Answer, Calibrated, Recall, resolve
from seal_lightning.grading.calibrated.curves import Curve, Curves, fit_curves, load, probabilities
from seal_lightning.grading.calibrated.features import FEATURES
from seal_lightning.grading.calibrated.grader import SHIPPED

QUESTION = "Which river flows through Paris?"


def grade(answer, *golds, question=QUESTION, **options):
    return Calibrated(**options).grade(question=question, golds=golds, answer=answer)


@pytest.mark.parametrize(
    ("question", "gold", "answer", "score"),
    [
        (QUESTION, "the Seine", "The Seine flows through Paris.", 1.0),
        (QUESTION, "the Seine", "The Rhine flows through Paris.", 0.0),
        (QUESTION, "the Seine", "", 0.0),
        (QUESTION, "the Seine", "?!", 0.0),
        ("When did it end?", "26 December 1999", "It ended on 26 December 1999.", 1.0),
        ("When did it end?", "26 December 1999", "It ended on 3 May 2004.", 0.0),
        ("How many people came?", "10,000,000", "10 million people came.", 1.0),
        ("Which sign is it?", "+", "a + sign", 1.0),
        ("Which sign is it?", "+", "a minus sign", 0.0),
        ("Where is it?", "\u4e1c\u4eac", "\u4e1c\u4eac", 1.0),
    ],
)
def test_scores(question, gold, answer, score):
    assert grade(answer, gold, question=question) == score


def test_the_best_gold_counts():
    (verdict,) = Calibrated().verdicts([Answer(QUESTION, ("Rhine", "Seine"), "The Seine.")])
    (alone,) = Calibrated().verdicts([Answer(QUESTION, ("Seine",), "The Seine.")])
    assert verdict == alone and verdict.score == 1.0


def test_no_golds_is_a_failure_and_not_a_score():
    with pytest.raises(GradingError, match="gold answers"):
        grade("Seine")


def test_many_are_graded_as_each_alone():
    grader = Calibrated(soft=True)
    texts = ["The Seine.", "", "the Rhine", "Seine and Rhine", "?"] * 3
    answers = [Answer(QUESTION, ("the Seine", "Seine river"), text) for text in texts]
    done = []
    found = grader.verdicts(answers, on_done=done.append)
    assert found == [grader.verdicts([answer])[0] for answer in answers]
    assert sum(done) == len(answers)


def test_reasons_are_the_strongest_and_add_up_with_the_others():
    answer = "The Seine flows through Paris."
    (verdict,) = Calibrated().verdicts([Answer(QUESTION, ("the Seine",), answer)])
    whole = Calibrated().explain(question=QUESTION, gold="the Seine", answer=answer)
    assert list(whole) == ["intercept", *FEATURES]
    assert probabilities(np.array(sum(whole.values()))) == pytest.approx(verdict.probability)
    strongest = sorted(FEATURES, key=lambda name: -abs(whole[name]))[:5]
    assert verdict.reasons == pytest.approx({name: whole[name] for name in strongest})
    assert list(verdict.reasons) == strongest


def test_nothing_can_be_explained_without_words():
    with pytest.raises(GradingError, match="without words"):
        Calibrated().explain(question=QUESTION, gold="Seine", answer="?")


def test_a_soft_score_is_the_probability():
    (verdict,) = Calibrated(soft=True).verdicts([Answer(QUESTION, ("the Seine",), "Maybe the Seine, or the Rhine")])
    assert 0.0 < verdict.score == verdict.probability < 1.0
    assert grade("Maybe the Seine, or the Rhine", "the Seine", threshold=1.0) == 0.0


def test_what_comes_after_the_most_words_earns_nothing():
    answer = " ".join(["water"] * 20) + " Seine"
    assert grade(answer, "Seine", max_words=20, soft=True) < 0.1
    assert grade(answer, "Seine", max_words=21, soft=True) > 0.3


def test_recitation_earns_less_where_other_words_are_counted():
    others = "boats bridges islands lamps markets museums painters poets students tourists"
    answer = f"The Seine flows through Paris past {others}."
    assert grade(answer, "the Seine") == 1.0
    assert grade(answer, "the Seine", free_words=5) == pytest.approx(5 / 11)  # "past" is one more
    assert grade("The Seine flows through Paris.", "the Seine", free_words=5) == 1.0


def test_it_is_known_by_name_and_survives_pickling():
    assert type(resolve("calibrated")) is Calibrated
    grader = pickle.loads(pickle.dumps(Calibrated(soft=True)))
    assert grader.grade(question=QUESTION, golds=["Seine"], answer="Seine") == grade("Seine", "Seine", soft=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must be"),
        ({"max_words": 0}, "max_words must be"),
        ({"free_words": True}, "free_words must be"),
        ({"coefficients": "nowhere.json"}, "coefficients must be a file"),
    ],
)
def test_options_are_validated(options, message):
    with pytest.raises(ConfigError, match=message):
        Calibrated(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["features"].popitem(), "coefficients must"),
        (lambda content: content["features"].update(luck={"at": [0, 1], "adds": [0, 1]}), "got luck in"),
        (lambda content: content["features"]["same_phrase"].update(at=[1, 0]), "got same_phrase in"),
        (lambda content: content["features"]["same_phrase"].update(at=[0]), "got same_phrase in"),
        (lambda content: content.update(intercept=None), "coefficients must"),
        (lambda content: content.clear(), "coefficients must"),
    ],
)
def test_other_files_are_no_coefficients(tmp_path, change, message):
    content = json.loads(SHIPPED.read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Calibrated(coefficients=str(path))


def test_the_shipped_model_is_small_and_readable():
    text = SHIPPED.read_text(encoding="utf-8")
    assert len(text) < 6000 and max(map(len, text.splitlines())) < 200


# -- curves ------------------------------------------------------------------------------------------------------------


def test_a_curve_is_lines_between_points_and_flat_beyond():
    model = Curves(0.5, {"a": Curve((0.0, 2.0), (-1.0, 1.0)), "b": Curve((1.0,), (0.25,))}, {})
    features = np.array([[-1.0, 0.0], [1.5, 9.0], [3.0, 1.0]])
    assert model.contributions(features).tolist() == [[-1.0, 0.25], [0.5, 0.25], [1.0, 0.25]]
    assert model.log_odds(features).tolist() == [-0.25, 1.25, 1.75]


def test_a_fit_finds_what_made_the_verdicts(tmp_path):
    draws = np.random.default_rng(0)
    features = draws.uniform(size=(4000, 2))
    correct = draws.uniform(size=4000) < probabilities(np.where(features[:, 0] > 0.5, 2.0, -2.0))
    model = fit_curves(features, correct, names=("step", "noise"), ridge=3.0)
    low, high = model.log_odds(np.array([[0.2, 0.5], [0.9, 0.5]]))
    assert (low, high) == pytest.approx((-2.0, 2.0), abs=0.4)
    assert np.std(model.curves["noise"].adds) < 0.25 < np.std(model.curves["step"].adds)
    model.save(tmp_path / "model.json")
    assert load(tmp_path / "model.json", features=("step", "noise")) == model


def test_recall_keeps_its_name():
    assert type(resolve("recall")) is Recall
