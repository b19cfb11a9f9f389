"""The E-step of the proxy reward: a rubric marks the self-edits themselves; nothing is adapted or asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seal_lightning.e_step.carriers import Grades, Tried
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Rubric, checked
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Report
from seal_lightning.sampling import PolicyWriter
from seal_lightning.types import Context, Rollout


@dataclass(frozen=True)
class RubricStep(EStep):
    """An E-step that neither adapts nor asks.

    Attributes:
        rubric: Marks the edits.
    """

    rubric: Rubric = field(default_factory=Rubric)

    def run(
        self, policy: Policy, contexts: Sequence[Context], *, round: int, report: Report = lambda progress: None
    ) -> list[Rollout]:
        """Write self-edits and mark the usable ones; nothing is said of the others."""
        unit = self.begin(policy, contexts, round, report)
        attempts = self.attempts(unit)
        edits = [(attempt.context, attempt.edit.text) for attempt in attempts if attempt.edit.status == "ok"]
        with unit.clock.phase("rubric", len(edits)) as advance:
            verdicts = self.rubric.verdicts(edits, policy=PolicyWriter(policy), on_done=advance)
            given = iter(checked(self.rubric, verdicts))
        grades = [Grades(rubric=next(given) if attempt.edit.status == "ok" else None) for attempt in attempts]
        return rollouts_of(unit, Tried(attempts, [None] * len(attempts)), grades, self.reward)
