"""Whether adapters learnt anything, and if they did not, why and what to try.

With queries: accuracy with the adapter minus accuracy without it, paired by document (by query where there is one
document), with a 95 % bootstrap interval. Without: the loss on the training text, with the adapter and without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.jobs import Answers
from seal_lightning.results.averages import FEWEST, interval
from seal_lightning.results.left_out import ANSWERS, SKIPPED, TRUNCATED, added
from seal_lightning.text.plural import counted

Learnt = Literal["yes", "not certain", "no"]
FEW = 10  # optimizer steps; the paper's adapters make tens
FELL = 0.05  # share of the loss on its own text that an adapter takes off, where it has learnt that text at all


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What is known of the training of adapters.

    Attributes:
        steps: Optimizer steps of the adapter that made the fewest.
        before: Mean loss of a token of the training text without the adapters; None where it was not measured.
        after: The same with the adapters.
        option: The option with the settings: `model.inner_loop` or `together`; empty where a generator wrote them.
        left_out: Counts of what was cut and skipped, as in `results/left_out.py`.
    """

    steps: int
    before: float | None
    after: float | None
    option: str
    left_out: Mapping[str, int]


def joined(trainings: Sequence[TrainingFacts]) -> TrainingFacts:
    """Several trainings as one: the fewest steps, mean losses, everything that was cut."""
    pairs = [(facts.before, facts.after) for facts in trainings if facts.before is not None and facts.after is not None]
    before, after = (fmean(losses) for losses in zip(*pairs, strict=True)) if pairs else (None, None)
    steps, left_out = min(facts.steps for facts in trainings), added([facts.left_out for facts in trainings])
    return TrainingFacts(steps, before, after, trainings[0].option, left_out)


@dataclass(frozen=True, slots=True)
class EditCounts:
    """How many self-edits were written, how many of them were rejected, and the most frequent reason."""

    edits: int = 0
    rejected: int = 0
    reason: str = ""

    @property
    def none_usable(self) -> bool:
        return 0 < self.edits == self.rejected


def count_edits(lessons: Sequence[Lesson]) -> EditCounts:
    """The self-edits about some documents."""
    reasons = sum((Counter(lesson.rejected) for lesson in lessons), Counter[str]())
    most = next((reason for reason, _ in reasons.most_common(1)), "")
    return EditCounts(sum(lesson.sampled for lesson in lessons), reasons.total(), most)


@dataclass(frozen=True, slots=True)
class LearningVerdict:
    """Whether something was learnt and `how` that shows; if nothing was, also `why` and what to try (`advice`)."""

    learnt: Learnt
    how: str
    why: str = ""
    advice: str = ""

    def noting(self, note: str) -> LearningVerdict:
        """The verdict with something more about how it came about."""
        return replace(self, how=f"{self.how}; {note}") if note else self

    def line(self, name: str = "") -> str:
        """One line for a log."""
        of = f" ({name})" if name else ""
        if self.learnt == "yes":
            return f"learnt{of}: {self.how}"
        if self.learnt == "not certain":
            return f"not certain that anything was learnt{of}: {self.how}"
        return f"learnt nothing{of}: {self.how}; why: {self.why}; try: {self.advice}"


def judge(
    before: Answers, after: Answers, training: TrainingFacts, counts: EditCounts = EditCounts()
) -> LearningVerdict:
    """Judge adapters by their answers about documents, or by their training text where nothing was asked."""
    names = [name for name in after if name in before]
    verdict = _by_answers(before, after, names) if names else _by_loss(training)
    how = verdict.how
    if counts.none_usable:
        how = f"no self-edit was usable, so only the passages themselves were learnt ({how})"
    elif verdict.learnt != "no":
        return verdict
    return LearningVerdict("no", how, *_why(before, training, counts, names))


def _by_answers(before: Answers, after: Answers, names: Sequence[str]) -> LearningVerdict:
    how, low = _compared(before, after, names)
    first, last = (fmean(answers[name].accuracy for name in names) for answers in (before, after))
    if last <= first + 1e-9:
        return LearningVerdict("no", how)
    return LearningVerdict("yes" if low is not None and low > 0 else "not certain", how)


def _compared(
    before: Answers, after: Answers, names: Sequence[str], *, of: str = "document"
) -> tuple[str, float | None]:
    """Two accuracies and their paired difference in words, and the lower end of its interval."""
    first, last = (fmean(answers[name].accuracy for name in names) for answers in (before, after))
    around, over, low = _paired(before, after, names, of=of)
    points = _points(last - first)
    return f"accuracy {first:.3f} before, {last:.3f} after; {points} points{around}, paired over {over}", low


def accuracies_compared(before: Answers, after: Answers, *, of: str) -> str:
    """Two accuracies and their paired difference in words, `of` so many of what they are given by."""
    return _compared(before, after, list(after), of=of)[0]


def points_between(before: Answers, after: Answers, names: Sequence[str]) -> str:
    """How much better some answers are than others to the same queries, in words."""
    first, last = (fmean(answers[name].accuracy for name in names) for answers in (before, after))
    return f"{_points(last - first)} points{_paired(before, after, names)[0]}"


def _paired(
    before: Answers, after: Answers, names: Sequence[str], *, of: str = "document"
) -> tuple[str, str, float | None]:
    """The interval of a difference in words, over what it is paired, and its lower end."""
    if len(names) >= FEWEST:
        gains = [after[name].accuracy - before[name].accuracy for name in names]
        over = counted(len(names), of)
    else:  # too few for an interval over them
        pairs = [pair for name in names for pair in zip(before[name].scores, after[name].scores, strict=True)]
        gains = [late - early for early, late in pairs]
        over = f"{counted(len(gains), 'query')} of {counted(len(names), of)}"
    low, high = interval(gains)
    around = "" if low is None or high is None else f" ({_points(low)} to {_points(high)})"
    return around, over, low


def _by_loss(training: TrainingFacts) -> LearningVerdict:
    before, after = training.before, training.after
    if before is None or after is None:
        return LearningVerdict("no", "no queries were asked, and there was nothing to train on")
    how = (
        f"no queries were asked; the loss on the training text is {before:.3f} without and {after:.3f} with the adapter"
    )
    return LearningVerdict("yes" if after < before else "no", how)


def _why(before: Answers, training: TrainingFacts, counts: EditCounts, names: Sequence[str]) -> tuple[str, str]:
    """The visible reasons, and what helps against each; at least one of both."""
    trained = bool(training.option)
    reasons: dict[str, str] = {}
    if counts.none_usable:
        most = f" (most often: {counts.reason})" if counts.reason else ""
        reasons[f"all {counts.edits} self-edits were rejected{most}"] = (
            "a clearer edit prompt, a stronger model, or more max_new_tokens of the sampler"
        )
    if names and all(before[name].accuracy >= 1 for name in names):
        reasons["all queries were answered right before"] = "documents that the model does not know yet"
    if cut := training.left_out.get(ANSWERS, 0):
        reasons[f"{cut} answers were cut at their limit"] = "a higher model.max_answer_tokens"
    reasons |= _of_training(training) if trained else {}
    if not reasons and not trained:
        reasons["the generator has not learnt to write what these queries ask for"] = (
            "documents and queries like those that it was trained on, a longer seal fit, or no --generator"
        )
    elif not reasons:
        fell = f"fell ({training.before:.3f} to {training.after:.3f})" if training.before and training.after else "fell"
        reason = f"the loss on the training text {fell}, but the queries ask about other things, or in more detail"
        reasons[reason] = f"other or more self-edits (model.task, model.e_step.edits), more {training.option}.epochs"
    return ", ".join(reasons), ", ".join(dict.fromkeys(reasons.values()))


def _of_training(training: TrainingFacts) -> dict[str, str]:
    reasons = {}
    if cut := training.left_out.get(TRUNCATED, 0) + training.left_out.get(SKIPPED, 0):
        reasons[f"{cut} training sequences were cut or skipped"] = f"a higher {training.option}.max_length"
    before, after = training.before, training.after
    if before is not None and after is not None and not math.isclose(before, 0.0) and after > (1 - FELL) * before:
        fell, article = ("did not fall", "another") if after >= before else ("hardly fell", "a higher")
        reason = f"the loss on the training text {fell} ({before:.3f} to {after:.3f})"
        reasons[reason] = f"{article} {training.option}.learning_rate"
    if training.steps < FEW:
        reasons[f"an adapter made {training.steps} optimizer steps"] = f"more {training.option}.epochs"
    return reasons


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
