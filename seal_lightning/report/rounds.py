"""The E-steps of a run in figures: rewards, what was kept, why edits were rejected, how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from seal_lightning.m_step.selection import group_rollouts, without_merit
from seal_lightning.records.entries import chosen
from seal_lightning.report.read import Run
from seal_lightning.results.averages import Bounds, interval
from seal_lightning.results.edits import Figures, Rewards, figures_of, rewards_of
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Of whole numbers: a quarter is below `low`, a quarter above `high`."""

    low: float
    middle: float
    high: float
    most: int


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """An E-step.

    Attributes:
        number: Of the round, from 1.
        figures: Of its edits.
        rewards: Of usable edits.
        interval: 95 % of the mean reward; the bootstrap draws contexts.
        groups: Its edits by context.
        kept: The edits that the filter has kept; None where that is not written down.
        reasons: How many edits were rejected, by reason, most frequent first.
        tokens: Of an edit; None where they were not counted.
        lines: That are not blank, of an edit.
        asking: Share of lines with a question mark.
        contexts: Whose units are finished.
    """

    number: int
    figures: Figures
    rewards: Rewards
    interval: Bounds
    groups: Sequence[RolloutGroup]
    kept: Sequence[EditOutcome] | None
    reasons: Mapping[str, int]
    tokens: Quartiles | None
    lines: Quartiles | None
    asking: float

    @property
    def contexts(self) -> int:
        return len(self.groups)

    @property
    def without_merit(self) -> int:
        """Kept edits that earned no reward, or answer no better than before."""
        return len(without_merit(self.kept or ()))


def round_figures(number: int, rollouts: Sequence[Rollout], run: Run) -> RoundFigures:
    edits = [rollout for rollout in rollouts if rollout.kind == "edit"] or list(rollouts)
    groups = group_rollouts(edits)
    once = [rollout for rollout in edits if rollout.repeat == 0]
    means = [fmean(found) for group in groups if (found := [o.reward for o in group.outcomes if o.reward is not None])]
    lines = [line for rollout in once for line in _lines(rollout.text)]
    return RoundFigures(
        number=number + 1,
        figures=figures_of(edits),
        rewards=rewards_of(groups),
        interval=interval(means),
        groups=groups,
        kept=chosen(groups, run.kept[number]) if number in run.kept else None,
        reasons=dict(Counter(r.reason or "no reason given" for r in once if r.status == "rejected").most_common()),
        tokens=quartiles([rollout.tokens["edit"] for rollout in once if "edit" in rollout.tokens]),
        lines=quartiles([len(_lines(rollout.text)) for rollout in once]),
        asking=sum("?" in line for line in lines) / len(lines) if lines else 0.0,
    )


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def quartiles(values: Sequence[int]) -> Quartiles | None:
    """None where there are none."""
    if not values:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Quartiles(low, median(values), high, max(values))
