"""What a run has cost and left out, and what its edits asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.report.read import Run
from seal_lightning.results.averages import by_edit
from seal_lightning.results.left_out import added, render_left_out, total_left_out
from seal_lightning.results.usage import total_seconds, total_tokens
from seal_lightning.types import Rollout

DIRECTIVES = 8  # values shown of one directive


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table of costs. `seconds` are None where they were not measured."""

    name: str
    seconds: float | None
    share: float


@dataclass(frozen=True, slots=True)
class DirectiveValue:
    """One value that edits asked for, in how many, and how they scored."""

    value: str
    edits: int
    score: float


def directives_of(phases: Iterable[Sequence[Rollout]]) -> dict[str, list[DirectiveValue]]:
    """The values that edits asked for, most frequent first, and the mean score of the edits that did.

    Repeats of an edit are averaged first; edits that a race dropped have no score and are left out.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for rollouts in phases:
        for repeats in by_edit(rollout for rollout in rollouts if rollout.kind == "edit" and not rollout.dropped):
            for name, value in repeats[0].asked.items():
                score = fmean(rollout.score for rollout in repeats)
                scores.setdefault(str(name), {}).setdefault(str(value), []).append(score)
    return {
        name: [
            DirectiveValue(value, len(of_edits), fmean(of_edits))
            for value, of_edits in sorted(values.items(), key=lambda item: -len(item[1]))[:DIRECTIVES]
        ]
        for name, values in list(scores.items())[:DIRECTIVES]
    }


def seconds_of(run: Run, rollouts: Iterable[Rollout]) -> list[Cost]:
    """Seconds by phase over all rollouts, largest first, and of the M-steps where they were logged."""
    seconds = total_seconds(rollouts)
    if spent := sum(row.get("m_step/seconds", 0.0) for row in run.metrics):
        seconds["M-step"] = spent
    total = sum(seconds.values()) or 1.0
    return [Cost(name, spent, spent / total) for name, spent in sorted(seconds.items(), key=lambda item: -item[1])]


def tokens_of(phases: Iterable[Sequence[Rollout]]) -> dict[str, int]:
    """Tokens used, by purpose; what races saved was not."""
    total: Counter[str] = Counter()
    for rollouts in phases:  # the same edit may stand in a round and in a validation
        total.update(total_tokens(rollouts))
    return {name: count for name, count in total.items() if name != "saved"}


def losses_of(metrics: Sequence[Mapping[str, float]]) -> dict[int, tuple[float, float, int]]:
    by_round: dict[int, list[float]] = {}
    for row in metrics:
        if "m_step/loss" in row and "epoch" in row:
            by_round.setdefault(int(row["epoch"]) + 1, []).append(row["m_step/loss"])
    found = {}
    for number, losses in by_round.items():
        tenth = math.ceil(len(losses) / 10)
        found[number] = (fmean(losses[:tenth]), fmean(losses[-tenth:]), len(losses))
    return found


def left_out_of(run: Run, phases: Mapping[str, Sequence[Rollout]]) -> dict[str, str]:
    """What was cut, skipped or dropped, as a line, by phase."""
    lines = {phase: render_left_out(total_left_out(rollouts)) for phase, rollouts in phases.items()}
    cut = [int(row["m_step/truncated"]) for row in run.metrics if "m_step/truncated" in row]
    lines["M-steps"] = f"{sum(cut):,} kept edits lost their end: raise m_step.max_length" if cut else ""
    lines["adapters"] = render_left_out(added([adapter.left_out for adapter in run.adapters]))
    return {phase: line for phase, line in lines.items() if line}


def phases_of(run: Run) -> dict[str, Sequence[Rollout]]:
    """The rollouts of a run by what they were for."""
    return {
        **{f"round {number + 1} E-step": rollouts for number, rollouts in run.rounds.items()},
        **{f"validation {number}": rollouts for number, rollouts in run.validations.items()},
        **run.others,
    }
