"""The E-step that a plan asks for: the plain one, with a race, with queries of its own, or with a rubric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from seal_lightning.e_step.carriers import Grades, Tried, UnitRun
from seal_lightning.e_step.own_queries import OwnQueryStep, QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import AllTrials, Race
from seal_lightning.grading import Rubric, checked
from seal_lightning.sampling import PolicyWriter
from seal_lightning.types import Rollout


@dataclass(frozen=True)
class RubricStep(EStep):
    """An E-step that neither adapts nor asks.

    Attributes:
        rubric: Marks the edits.
    """

    rubric: Rubric = field(default_factory=Rubric)
    adapts: ClassVar[bool] = False

    def roll_out(self, unit: UnitRun) -> list[Rollout]:
        """Write self-edits and mark the usable ones; nothing is said of the others."""
        attempts = self.attempts(unit)
        edits = [(attempt.context, attempt.edit.text) for attempt in attempts if attempt.edit.status == "ok"]
        with unit.clock.phase("rubric", len(edits)) as advance:
            verdicts = self.rubric.verdicts(edits, policy=PolicyWriter(unit.policy), on_done=advance)
            given = iter(checked(self.rubric, verdicts))
        grades = [Grades(rubric=next(given) if attempt.edit.status == "ok" else None) for attempt in attempts]
        return rollouts_of(unit, Tried(attempts, [None] * len(attempts)), grades, self.reward)


def step_for(
    plan: Plan, parts: EStep, *, rubric: Rubric | None = None, query_writer: QueryWriter | None = None
) -> EStep:
    """Make an E-step for a plan.

    Args:
        plan: How much is tried, on which queries, and how edits are scored.
        parts: A plain E-step with everything else.
        rubric: Marks edits where the plan says so.
        query_writer: Writes the queries where the plan says so.
    """
    trials = Race(plan.racing) if plan.racing else AllTrials()
    shared = {**vars(parts), "plan": plan, "trials": trials}
    if plan.score_by == "rubric":
        return RubricStep(**shared, rubric=rubric or Rubric())
    if plan.queries == "own":
        return OwnQueryStep(**shared, query_writer=query_writer or QueryWriter())
    return EStep(**shared)
