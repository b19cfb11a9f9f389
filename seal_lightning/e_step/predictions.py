"""What `seal predict` does with a unit of work: the E-step without its scores, or without anything but the self-edits.

    contexts -> self-edits -> adapters -> answers -> one prediction a query          (arXiv 2506.10943, section 3.1)

The first arrow is all of it where `model.predict` is `edits`; the queries need no known answers where it is `answers`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seal_lightning.e_step.carriers import Grades
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.step import EStep
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Report
from seal_lightning.tasks import Task
from seal_lightning.types import Context, Prediction, Rollout


@dataclass(frozen=True)
class WritingStep(EStep):
    """An E-step that writes self-edits, and adapts to none.

    Attributes:
        predict: Tells its journal from that of answers.
    """

    predict: str = "edits"

    def run(
        self, policy: Policy, contexts: Sequence[Context], *, round: int, report: Report = lambda progress: None
    ) -> list[Rollout]:
        """Sample and parse self-edits; the rollouts have no answers and no reward."""
        return self.write_edits(policy, contexts, round=round, report=report)


class AnsweringStep(EStep):
    """An E-step that answers and scores nothing, so its queries need no golds."""

    def run(
        self, policy: Policy, contexts: Sequence[Context], *, round: int, report: Report = lambda progress: None
    ) -> list[Rollout]:
        """Adapt to self-edits and answer; the rollouts have answers with and without an adapter, and no reward."""
        unit = self.begin(policy, contexts, round, report)
        baselines = self.baselines(unit)
        attempts = self.attempts(unit)
        tried = self.trials.run(self, unit, attempts)
        return rollouts_of(unit, tried, [Grades()] * len(attempts), self.reward, baselines=baselines)


class UnitRows:
    """What `predict_step` hands to Lightning and its `BasePredictionWriter`s: a unit's rollouts, to iterate over.

    It is no sequence, since Lightning would copy the rollouts in one, to move the tensors that they do not hold.
    """

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self.rollouts = list(rollouts)

    def __iter__(self) -> Iterator[Rollout]:
        return iter(self.rollouts)

    def __len__(self) -> int:
        return len(self.rollouts)


def predict(task: Task, contexts: Sequence[Context], rollouts: Sequence[Rollout]) -> list[Prediction]:
    """One prediction for each query of the contexts, by the adapters of all their self-edits together."""
    by_context: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_context[rollout.context_id].append(rollout)
    return [
        prediction
        for context in contexts
        for prediction in _of_context(task, context, by_context[context.id])
        if by_context[context.id]
    ]


def _of_context(task: Task, context: Context, rollouts: Sequence[Rollout]) -> list[Prediction]:
    predictions = []
    for number, query in enumerate(context.queries):
        answers = tuple(rollout.answers[number] for rollout in rollouts if rollout.answers)
        alone = rollouts[0].baseline_answers[number]
        predictions.append(Prediction(context, query, task.vote(answers, alone), answers, alone))
    return predictions
