"""The calibrated grader, the default: how likely GPT-4.1 would call an answer right, from its words alone.

It looks at 26 features of question, gold and answer (`features`) through a model of a few kilobytes
(`calibrated.json`, of which `curves` tells the form), fitted on the published verdicts by `fit`. No network, no model
download, the same result every time. What it cannot know is meaning: a paraphrase without the gold's words is wrong to
it, and it reads only the beginning of a long answer. docs/graders.md has the figures.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from seal_lightning.errors import GradingError, check_count
from seal_lightning.grading.base import Answer, EnglishGrader, Verdict, check_threshold
from seal_lightning.grading.calibrated.curves import load, probabilities
from seal_lightning.grading.calibrated.expectation import expect
from seal_lightning.grading.calibrated.features import FEATURES, measure
from seal_lightning.grading.calibrated.reading import read
from seal_lightning.grading.scripts import is_other
from seal_lightning.grading.words import words
from seal_lightning.types import Writer

SHIPPED = Path(__file__).with_name("calibrated.json")
BATCH = 4096  # answers measured before the model is applied
MAX_WORDS = 64  # 64 tokens, to which the paper cuts answers, are about 48 words
REASONS = 5
NAMES = np.array(FEATURES, dtype=object)
OTHER_WORDS = FEATURES.index("other_words")
NOTHING_SAID = Verdict(0.0, probability=0.0)
LITERALLY = Verdict(1.0, probability=1.0)


class Calibrated(EnglishGrader):
    """1 if the answer is probably right, else 0.

    Args:
        threshold: Probability from which on an answer is right, above 0 and at most 1.
        soft: Score by the probability itself.
        max_words: Read no more of an answer than this many words, so that reciting on earns nothing.
        free_words: A score that does not pay for recitation: an answer with more than so many other content words,
            which neither question nor gold has, earns `free_words` / other words of its score. null pays in full.
        coefficients: A file of your own (`python -m seal_lightning.commands.fit_grader`); null for the shipped one.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        soft: bool = False,
        max_words: int = MAX_WORDS,
        free_words: int | None = None,
        coefficients: str | None = None,
    ) -> None:
        self.threshold = check_threshold(threshold)
        self.soft = soft
        advice = f"try {MAX_WORDS}"
        self.max_words = check_count("max_words", max_words, advice=advice)
        self.free_words = None if free_words is None else check_count("free_words", free_words, advice=advice)
        self.model = load(Path(coefficients or SHIPPED).expanduser(), features=FEATURES)

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        return self.verdicts([Answer(question, tuple(golds), answer)])[0].score

    def verdicts(
        self,
        answers: Sequence[Answer],
        *,
        policy: Writer | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Verdict]:
        """Grade many answers; the reasons are the features that decided most, in log-odds."""
        del policy
        self.tell_languages([gold for answer in answers for gold in answer.golds])
        graded: list[Verdict] = []
        for start in range(0, len(answers), BATCH):
            batch = answers[start : start + BATCH]
            graded += self._grade(batch)
            on_done(len(batch))
        return graded

    def explain(self, *, question: str, gold: str, answer: str) -> dict[str, float]:
        """Everything that decided: with "intercept" the log-odds add up to those of the probability.

        Raises:
            GradingError: The answer or the gold has no word, so that nothing was added up.
        """
        reading = read(answer, most=self.max_words, other=is_other(question) or is_other(gold))
        if not reading.texts or not words(gold):
            raise GradingError(f"cannot explain an answer or a gold without words: got {answer!r} and {gold!r}")
        added = self.model.contributions(np.array([measure(expect(question, gold), reading)], dtype=float))[0]
        return {"intercept": self.model.intercept, **dict(zip(FEATURES, added.tolist(), strict=True))}

    def _grade(self, answers: Sequence[Answer]) -> list[Verdict]:
        graded = [NOTHING_SAID] * len(answers)
        owners: list[int] = []
        features = array("d")  # flat: lists of tuples would keep the garbage collector busy
        for place, answer in enumerate(answers):
            if not answer.golds:
                raise GradingError("cannot grade an answer without gold answers: give every query at least one")
            other = is_other(answer.question) or any(map(is_other, answer.golds))
            reading = read(answer.text, most=self.max_words, other=other)
            for gold in answer.golds:
                expected = expect(answer.question, gold)
                if not expected.shape.gold_words:  # a sign, such as "+"
                    if gold.strip() and gold.strip() in answer.text:
                        graded[place] = LITERALLY
                elif reading.texts:
                    owners.append(place)
                    features.extend(measure(expected, reading))
        if owners:
            for place, verdict in self._judge(owners, np.array(features).reshape(len(owners), -1)):
                before = graded[place]
                if before is NOTHING_SAID or (verdict.score, verdict.probability) > (before.score, before.probability):
                    graded[place] = verdict
        return graded

    def _judge(self, owners: Sequence[int], features: np.ndarray) -> Iterator[tuple[int, Verdict]]:
        """A verdict for each row; an answer with several golds has several."""
        added = self.model.contributions(features)
        likely = probabilities(self.model.intercept + added.sum(axis=1))
        scores = likely if self.soft else (likely >= self.threshold).astype(float)
        if self.free_words is not None:
            scores = scores * np.minimum(1.0, self.free_words / np.maximum(features[:, OTHER_WORDS], 1.0))
        strongest = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :REASONS]
        columns = (scores, likely, NAMES[strongest], np.take_along_axis(added, strongest, axis=1))
        for owner, score, probability, names, values in zip(owners, *[each.tolist() for each in columns], strict=True):
            yield owner, Verdict(score, probability, dict(zip(names, values, strict=True)))
