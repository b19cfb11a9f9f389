"""The E-step that a plan asks for: the plain one, with a race, with queries of its own, or with a rubric."""

from __future__ import annotations

from seal_lightning.e_step.own_queries import OwnQueryStep, QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race import Race
from seal_lightning.e_step.rubric_step import RubricStep
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import AllTrials
from seal_lightning.grading import Rubric


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
