"""Fit the calibrated grader to a judge's verdicts, and say how well it does on questions that it has not seen.

    python -m seal_lightning.commands.fit_grader VERDICTS -o FILE [--exclude RUN ...]

VERDICTS has a {question, gold, answer, correct} a line (.gz too). Answers to one question never stand on both sides of
a split, because a judge's verdicts on them are alike. `--exclude` leaves out the questions of official run files, so
that the grader can be tried as a reward on them. FILE is then the grader's `coefficients`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np

from seal_lightning.errors import DataError, SealError
from seal_lightning.grading.agreement import Agreement, compare
from seal_lightning.grading.calibrated.curves import Curves, fit_curves, probabilities
from seal_lightning.grading.calibrated.expectation import expect
from seal_lightning.grading.calibrated.features import FEATURES, measure
from seal_lightning.grading.calibrated.grader import MAX_WORDS
from seal_lightning.grading.calibrated.reading import read
from seal_lightning.grading.scripts import is_other
from seal_lightning.processes.streams import standard_streams
from seal_lightning.records.judged import Judged, read_judged
from seal_lightning.records.official import read_run
from seal_lightning.text.escaping import single_line

SEEDS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """Verdicts with the features of their answers. Answers without a word are not fitted: they are wrong.

    Attributes:
        questions: The question of each verdict.
        features: (verdicts, features).
        has_words: Whether each answer has words, (verdicts,).
        correct: What the judge says, (verdicts,).
    """

    questions: Sequence[str]
    features: np.ndarray
    has_words: np.ndarray
    correct: np.ndarray

    def rows(self, chosen: np.ndarray) -> Measured:
        """Those that the mask chooses."""
        questions = [question for question, wanted in zip(self.questions, chosen, strict=True) if wanted]
        return Measured(questions, self.features[chosen], self.has_words[chosen], self.correct[chosen])


def main(args: Sequence[str] | None = None) -> int:
    with standard_streams():
        return _main(args)


def _main(args: Sequence[str] | None) -> int:
    options = _parser().parse_args(args)
    try:
        judged = read_judged(options.verdicts, verdicts=True)
        excluded = {question for path in options.exclude for question in questions_of(path)}
        model = _fit_and_report(judged, excluded)
        model.save(options.output)
    except (SealError, OSError) as error:
        print(single_line(f"fit: {error}"), file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seal_lightning.commands.fit_grader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verdicts", type=Path, help="question, gold, answer, correct: a JSON object a line")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the coefficients, as JSON")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="official run files to keep apart")
    return parser


def _fit_and_report(judged: Sequence[Judged], excluded: Collection[str]) -> Curves:
    measured = measure_all([row for row in judged if row.answer.question not in excluded])
    questions = len(set(measured.questions))
    if questions < 3 or len(set(measured.correct.tolist())) < 2:
        raise DataError(
            f"expected right and wrong answers to at least 3 questions, got {questions}: judge more answers"
        )
    left_out = len(judged) - len(measured.questions)
    print(f"{len(measured.questions)} verdicts on {questions} questions ({left_out} verdicts excluded)")
    found = [held_out(measured, seed=seed) for seed in range(SEEDS)]
    for seed, each in enumerate(found):
        print(f"seed {seed}: {_figures([each])}")
    print(f"mean of held-out thirds: {_figures(found)}")
    return fit(measured, fitted_on={"verdicts": len(measured.questions), "questions": questions})


def _figures(found: Sequence[Agreement]) -> str:
    agreement = fmean(each.agreement for each in found)
    kappa = fmean(each.kappa or 0.0 for each in found)
    error = fmean(each.calibration_error for each in found)
    return f"agreement {agreement:.4f}, kappa {kappa:.4f}, calibration error {error:.4f}"


# -- steps -------------------------------------------------------------------------------------------------------------


def measure_all(judged: Sequence[Judged], *, max_words: int = MAX_WORDS) -> Measured:
    """The features of all verdicts; of several golds the first is taken, for which the judge was asked."""
    features = np.zeros((len(judged), len(FEATURES)))
    has_words = np.zeros(len(judged), dtype=bool)
    for place, row in enumerate(judged):
        question, gold = row.answer.question, row.answer.golds[0]
        reading = read(row.answer.text, most=max_words, other=is_other(question) or is_other(gold))
        if reading.texts:
            has_words[place] = True
            features[place] = measure(expect(question, gold), reading)
    questions = [row.answer.question for row in judged]
    return Measured(questions, features, has_words, np.array([bool(row.correct) for row in judged]))


def fit(measured: Measured, *, fitted_on: Mapping[str, Any] = MappingProxyType({})) -> Curves:
    features, correct = measured.features[measured.has_words], measured.correct[measured.has_words]
    return fit_curves(features, correct, names=FEATURES, fitted_on=fitted_on)


def held_out(measured: Measured, *, seed: int) -> Agreement:
    """Fit on the answers to two thirds of the questions, compare on those to the others."""
    tested = split(measured.questions, seed=seed)
    model, rest = fit(measured.rows(~tested)), measured.rows(tested)
    likely = np.where(rest.has_words, probabilities(model.log_odds(rest.features)), 0.0)
    return compare(likely.tolist(), (likely >= 0.5).tolist(), rest.correct.tolist())


def split(questions: Sequence[str], *, seed: int) -> np.ndarray:
    """Which verdicts are held out: those on a third of the questions."""
    drawn = sorted(set(questions))
    random.Random(seed).shuffle(drawn)
    tested = set(drawn[: len(drawn) // 3])
    return np.array([question in tested for question in questions])


def questions_of(path: Path) -> set[str]:
    """The questions that an official run file asks."""
    return {question for rollout in read_run(path).rollouts for question in rollout.questions}


if __name__ == "__main__":
    sys.exit(main())
