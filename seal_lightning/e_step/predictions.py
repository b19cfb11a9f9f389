"""What `seal predict` does with a unit of work: the E-step without scores, or the self-edits alone.

    contexts -> self-edits -> adapters -> answers -> one prediction a query          (arXiv 2506.10943, section 3.1)

With `model.predict` set to `edits` the first arrow is all of it; with `answers` the queries need no known answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from seal_lightning.e_step.carriers import Grades, UnitRun
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.step import EStep
from seal_lightning.tasks import Task
from seal_lightning.types import Context, Prediction, Rollout


@dataclass(frozen=True)
class WritingStep(EStep):
    """An E-step that writes self-edits but does not adapt to them.

    Attributes:
        predict: What is predicted, which tells its journal from that of answers.
    """

    predict: str = "edits"
    adapts: ClassVar[bool] = False

    def roll_out(self, unit: UnitRun) -> list[Rollout]:
        """Sample and parse self-edits; the rollouts have no answers and no reward."""
        return self.write_edits(unit.policy, unit.contexts, round=unit.round, report=unit.clock.report)


class AnsweringStep(EStep):
    """An E-step that answers and scores nothing, so its queries need no golds."""

    def roll_out(self, unit: UnitRun) -> list[Rollout]:
        """Adapt to self-edits and answer; the rollouts have answers with and without an adapter, and no reward."""
        baselines = self.baselines(unit)
        attempts = self.attempts(unit)
        tried = self.trials.run(self, unit, attempts)
        return rollouts_of(unit, tried, [Grades()] * len(attempts), self.reward, baselines=baselines)


class UnitRows:
    """What `predict_step` hands to Lightning and its `BasePredictionWriter`s: a unit's rollouts, to iterate over.

    Not a sequence: Lightning would copy the rollouts of one to move tensors, of which they have none.
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
