"""Whether adapters learnt anything, how that is judged, and where nothing was learnt why and what to try.

With queries: accuracy with the adapter minus accuracy without it, paired by document (by query where there is one
document), with a 95 % bootstrap interval. Without: the loss on the training text, with the adapter and without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from seal_lightning.commands.adapt.scores import Measured
from seal_lightning.results.averages import interval
from seal_lightning.results.left_out import ANSWERS, SKIPPED, TRUNCATED

Learnt = Literal["yes", "not certain", "no"]
FEW = 10  # optimizer steps; the paper's adapters make tens
FELL = 0.05  # share of the loss on its own text that an adapter takes off, where it has learnt that text at all


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of the training of adapters.

    Attributes:
        steps: Optimizer steps of an adapter, at the least.
        before: Mean loss of a token of the training text without the adapters; None where it was not measured.
        after: With them.
        option: Whose settings it has: `model.inner_loop` or `together`.
        counts: What was cut and skipped, as `left_out` counts.
    """

    steps: int
    before: float | None
    after: float | None
    option: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Writing:
    """What came of the self-edits: how many, how many of them were rejected, and the most frequent reason."""

    edits: int = 0
    rejected: int = 0
    reason: str = ""

    @property
    def none_usable(self) -> bool:
        return 0 < self.edits == self.rejected


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something was learnt; `how` is how that shows, `why` and `advice` are empty where it was."""

    learnt: Learnt
    how: str
    why: str = ""
    advice: str = ""

    def line(self, name: str = "") -> str:
        """One line for a log."""
        of = f" ({name})" if name else ""
        if self.learnt == "yes":
            return f"learnt{of}: {self.how}"
        if self.learnt == "not certain":
            return f"not certain that anything was learnt{of}: {self.how}"
        return f"learnt nothing{of}: {self.how}; why: {self.why}; try: {self.advice}"


def judge(before: Measured, after: Measured, training: Training, writing: Writing = Writing()) -> Verdict:
    """Judge adapters by the documents that they were asked about, or by their training text where they were not."""
    names = [name for name in after if name in before]
    verdict = _by_answers(before, after, names) if names else _by_loss(training)
    if writing.none_usable:
        how = f"no self-edit could be used, so only passages as they stand were learnt ({verdict.how})"
        return Verdict("no", how, *_why(before, training, writing, names))
    if verdict.learnt == "no":
        return Verdict("no", verdict.how, *_why(before, training, writing, names))
    return verdict


def _by_answers(before: Measured, after: Measured, names: Sequence[str]) -> Verdict:
    first, last = (fmean(found[name].accuracy for name in names) for found in (before, after))
    if len(names) > 1:
        gains = [after[name].accuracy - before[name].accuracy for name in names]
        over = f"{len(names)} documents"
    else:
        (name,) = names
        gains = [late - early for early, late in zip(before[name].scores, after[name].scores, strict=True)]
        over = f"the {len(gains)} queries of one document" if len(gains) > 1 else "a single query"
    low, high = interval(gains)
    around = "" if low is None or high is None else f" ({_points(low)} to {_points(high)})"
    how = f"accuracy {first:.3f} before, {last:.3f} after; {_points(last - first)} points{around}, paired over {over}"
    if last <= first + 1e-9:
        return Verdict("no", how)
    return Verdict("yes" if low is not None and low > 0 else "not certain", how)


def _by_loss(training: Training) -> Verdict:
    before, after = training.before, training.after
    if before is None or after is None:
        return Verdict("no", "no queries were asked, and there was no text to train on")
    how = f"no queries were asked; the loss on the training text is {before:.3f} without and {after:.3f} with adapter"
    return Verdict("yes" if after < before else "no", how)


def _why(before: Measured, training: Training, writing: Writing, names: Sequence[str]) -> tuple[str, str]:
    """The reasons that can be seen, and what helps against each; at least one of both."""
    found = [*_of_writing(writing), *_of_answers(before, training, names), *_of_training(training)]
    if not found:
        found = [_text_of_no_use(training)]
    whys, advice = zip(*found, strict=True)
    return ", ".join(whys), ", ".join(dict.fromkeys(advice))


def _text_of_no_use(training: Training) -> tuple[str, str]:
    """Where nothing else is the matter."""
    loss = f" ({training.before:.3f} to {training.after:.3f})" if training.before and training.after else ""
    return (
        f"the loss on the training text fell{loss}, but the queries ask for something else, or for more of it",
        f"other or more self-edits (model.task, model.e_step.edits), more {training.option}.epochs",
    )


def _of_writing(writing: Writing) -> list[tuple[str, str]]:
    if not writing.none_usable:
        return []
    most = f", most often for this reason: {writing.reason}" if writing.reason else ""
    return [
        (
            f"all {writing.edits} self-edits were rejected{most}",
            "a clearer edit prompt, a stronger model, or more max_new_tokens of the sampler",
        )
    ]


def _of_answers(before: Measured, training: Training, names: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    if names and all(before[name].accuracy >= 1 for name in names):
        found.append(("all queries were answered right before", "documents that the model does not know"))
    if cut := training.counts.get(ANSWERS, 0):
        found.append((f"{cut} answers were cut at their limit", "more model.max_answer_tokens"))
    return found


def _of_training(training: Training) -> list[tuple[str, str]]:
    rate, epochs = f"{training.option}.learning_rate", f"{training.option}.epochs"
    found = []
    if cut := training.counts.get(TRUNCATED, 0) + training.counts.get(SKIPPED, 0):
        found.append((f"{cut} training sequences were cut or skipped", f"more {training.option}.max_length"))
    before, after = training.before, training.after
    if before is not None and after is not None and not math.isclose(before, 0.0):
        if after >= before:
            found.append(
                (f"the loss on the training text did not fall ({before:.3f} to {after:.3f})", f"another {rate}")
            )
        elif after > (1 - FELL) * before:
            found.append(
                (f"the loss on the training text hardly fell ({before:.3f} to {after:.3f})", f"a higher {rate}")
            )
    if training.steps < FEW:
        found.append((f"an adapter made {training.steps} optimizer steps", f"more {epochs}"))
    return found


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
