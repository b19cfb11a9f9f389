"""Agreement with GPT-4.1, which judged the answers published with the paper (shared data, not part of the project)."""

import gzip
import json
from pathlib import Path

import pytest

from seal_lightning.commands.fit_grader import fit, held_out, measure_all
from seal_lightning.grading import Answer, Calibrated, Contains, Recall
from seal_lightning.grading.agreement import compare
from seal_lightning.grading.calibrated.curves import load
from seal_lightning.grading.calibrated.features import FEATURES
from seal_lightning.grading.calibrated.grader import SHIPPED
from seal_lightning.records.judged import read_judged
from seal_lightning.records.official import read_run

VERDICTS = Path("data") / "seal-published" / "verdicts.jsonl.gz"
OTHER_MODEL = Path("data") / "seal-2025-08" / "rank_3B_iter0.json.gz"


@pytest.fixture(scope="module")
def verdicts(shared):
    with gzip.open(shared / VERDICTS, "rt", encoding="utf-8") as rows:
        return [json.loads(row) for row in rows]


def agreement(grader, verdicts):
    """Share of equal verdicts and Cohen's kappa."""
    own = [grader.grade(question=row["question"], golds=[row["gold"]], answer=row["answer"]) for row in verdicts]
    judge = [float(row["correct"]) for row in verdicts]
    equal = sum(one == other for one, other in zip(own, judge, strict=True)) / len(judge)
    yes, judge_yes = sum(own) / len(own), sum(judge) / len(judge)
    chance = yes * judge_yes + (1 - yes) * (1 - judge_yes)
    return equal, (equal - chance) / (1 - chance)


@pytest.mark.parametrize(("grader", "equal", "kappa"), [(Recall(), 0.877, 0.747), (Contains(), 0.848, 0.684)])
def test_agreement(grader, equal, kappa, verdicts):
    assert len(verdicts) == 23427
    assert agreement(grader, verdicts) == pytest.approx((equal, kappa), abs=0.003)


@pytest.fixture(scope="module")
def measured(shared):
    return measure_all(read_judged(shared / VERDICTS, verdicts=True))


def test_calibrated_on_questions_that_it_has_not_seen(measured):
    found = [held_out(measured, seed=seed) for seed in range(3)]
    assert [each.agreement for each in found] == pytest.approx([0.895, 0.901, 0.886], abs=0.003)
    assert [each.kappa for each in found] == pytest.approx([0.785, 0.800, 0.769], abs=0.006)
    assert max(each.calibration_error for each in found) < 0.03


def test_the_shipped_model_is_what_the_fit_gives(measured):
    fitted, shipped = fit(measured), load(SHIPPED, features=FEATURES)
    assert fitted.log_odds(measured.features) == pytest.approx(shipped.log_odds(measured.features), abs=0.02)


def test_the_shipped_model_on_another_model_and_questions_that_it_has_not_seen(shared, measured):
    fitted_on = set(measured.questions)
    judged = {
        (Answer(question, golds, answer), score)
        for rollout in read_run(shared / OTHER_MODEL).rollouts
        for question, golds, answer, score in zip(
            rollout.questions, rollout.golds, rollout.answers, rollout.scores, strict=True
        )
        if question not in fitted_on
    }
    graded = Calibrated().verdicts([answer for answer, _ in judged])
    found = compare(
        [each.probability or 0.0 for each in graded],
        [each.score == 1.0 for each in graded],
        [score == 1.0 for _, score in judged],
    )
    assert found.n == 1681
    assert (found.agreement, found.kappa) == pytest.approx((0.897, 0.779), abs=0.003)
