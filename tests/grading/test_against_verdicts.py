"""Agreement with GPT-4.1, which judged the answers published with the paper (shared data, not part of the project)."""

import gzip
import json
from pathlib import Path

import pytest

from seal_lightning.grading import Contains, Recall

VERDICTS = Path(__file__).parents[3] / "shared" / "data" / "seal-published" / "verdicts.jsonl.gz"


@pytest.fixture(scope="module")
def verdicts():
    if not VERDICTS.is_file():
        pytest.skip(f"{VERDICTS} is not here")
    with gzip.open(VERDICTS, "rt", encoding="utf-8") as rows:
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
