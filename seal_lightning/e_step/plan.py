"""How much the E-step tries on each context: edits, repeats, what they are compared with, and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seal_lightning.e_step.race_rule import Racing
from seal_lightning.errors import ConfigError, check_count

# What a plan must be where a rubric marks the edits: there is nothing to repeat, to compare with or to ask.
RUBRIC_ONLY = {
    "repeats": 1,
    "passage_only": False,
    "written": False,
    "queries": "data",
    "carry_over_queries": 0,
    "racing": None,
}


@dataclass(frozen=True)
class Plan:
    """How much is tried on each context.

    Args:
        edits: Self-edits a context (paper: 5 for knowledge, 15 for ARC).
        repeats: Adapters trained for each self-edit, with different seeds; their rewards are averaged (paper: 3).
        passage_only: Also train one adapter on the passage alone, the paper's baseline for evaluation.
        written: Also train one on the first self-edit that the data carries for a context, where it does: the paper's
            comparison with a stronger model's edits. In a fit only before the first round, since they do not change.
        score_by: `queries` adapts and asks; `rubric` marks the edit itself without adapting (`model.rubric`).
        queries: `data` asks those of the data; `own` has a model write them from the passage (`model.query_writer`).
        carry_over_queries: Ask each adapter this many queries of the unit's other contexts too; the change of accuracy
            on them is the rollout's `retention`, 0 where the unit has no other.
        racing: Train only what decides which edits are kept; null trains every repeat of every edit.
    """

    edits: int = 5
    repeats: int = 3
    passage_only: bool = False
    written: bool = False
    score_by: Literal["queries", "rubric"] = "queries"
    queries: Literal["data", "own"] = "data"
    carry_over_queries: int = 0
    racing: Racing | None = None

    def __post_init__(self) -> None:
        for name, least in (("edits", 1), ("repeats", 1), ("carry_over_queries", 0)):
            check_count(name, getattr(self, name), least=least)
        for name, allowed in {"score_by": ("queries", "rubric"), "queries": ("data", "own")}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name, needed in RUBRIC_ONLY.items() if self.score_by == "rubric" else ():
            if (given := getattr(self, name)) != needed:
                raise ConfigError(
                    f"{name} must be {needed} where score_by is rubric, which neither adapts nor asks, got {given}"
                )
        if self.racing:
            self.racing.check(edits=self.edits, repeats=self.repeats)

    @property
    def needs_queries(self) -> bool:
        """Whether the data has to bring queries."""
        return self.score_by == "queries" and self.queries == "data"
