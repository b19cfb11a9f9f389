"""What a report says of a run, computed from its rollouts: figures by round, what was kept, lengths, costs, examples.

Accuracies and their intervals are those of `seal fit` and `seal test` (accuracy.py), shares and rewards those of
`seal replay` (edits.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.report.costs import (
    Cost,
    DirectiveValue,
    directives_of,
    left_out_of,
    losses_of,
    phases_of,
    seconds_of,
    tokens_of,
)
from seal_lightning.report.examples import ExamplePair, best_and_worst, typical_of
from seal_lightning.report.read import Run
from seal_lightning.report.rounds import RoundFigures, round_figures
from seal_lightning.report.state import State, progress_of, state_of
from seal_lightning.results.accuracy import AccuracyRow, accuracy_table, rounds_table
from seal_lightning.results.pairing import titles_of
from seal_lightning.results.usage import usage_by_purpose
from seal_lightning.results.verdict import said
from seal_lightning.types import Usage


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run with everything that a report says of it.

    Attributes:
        run: As it lies on disk.
        state: Whether it has come to its end.
        progress: Where it is, in words.
        accuracy: The table over rounds; empty where nothing was validated.
        other_tables: The accuracy tables of tests, by the journal's name.
        rounds: The E-steps.
        pairs: Best and worst edits of each round, by its number.
        typical: A held-out context before and after training.
        directives: What edits asked for, by directive.
        phases: Seconds of computing by phase.
        tokens: Used, by purpose, in all.
        losses: Of the M-steps by round: mean of the first and the last tenth of the batches, and their number.
        usage: What endpoints were asked for, by purpose.
        titles: What contexts are called, by their ids.
        left_out: What was cut, skipped or dropped, as a line, by phase.
    """

    run: Run
    state: State
    progress: str
    accuracy: Sequence[AccuracyRow]
    other_tables: Mapping[str, Sequence[AccuracyRow]]
    rounds: Sequence[RoundFigures]
    pairs: Mapping[int, Sequence[ExamplePair]]
    typical: ExamplePair | None
    directives: Mapping[str, Sequence[DirectiveValue]]
    phases: Sequence[Cost]
    tokens: Mapping[str, int]
    losses: Mapping[int, tuple[float, float, int]]
    usage: Mapping[str, Usage]
    left_out: Mapping[str, str]
    titles: Mapping[str, str]

    @property
    def total(self) -> Usage:
        """What endpoints were asked for, in all."""
        return sum(self.usage.values(), Usage())

    @property
    def raced(self) -> bool:
        """Whether an E-step was a race."""
        return any(found.figures.spent is not None for found in self.rounds)

    @property
    def unasked(self) -> bool:
        """Whether its self-edits could be used and nothing was asked about them, so that there are no rewards."""
        usable = [one for rollouts in self.run.rounds.values() for one in rollouts if one.status == "ok"]
        return bool(usable) and not any(one.questions or one.reward is not None for one in usable)

    @property
    def base(self) -> AccuracyRow | None:
        """Accuracy without an adapter."""
        return next((row for row in self.accuracy if row.name == "base"), None)

    @property
    def best(self) -> str:
        """What a fit's best policy is, and how it compares with the untrained one; empty where there is none yet."""
        found = self.run.selection
        if found is None or not found.rounds:
            return ""
        sentence = said(found)[0]
        return sentence if found.verdict in ("untrained", "nothing") else f"round {found.best}, {sentence}"

    @property
    def edits(self) -> Sequence[AccuracyRow]:
        """Accuracy with own edits, by validation."""
        return [row for row in self.accuracy if row.name.startswith("edits")]


def measure(run: Run) -> MeasuredRun:
    """Compute what there is to say of a run."""
    rounds = [round_figures(number, rollouts, run) for number, rollouts in run.rounds.items()]
    phases = phases_of(run)
    everything = [rollout for rollouts in phases.values() for rollout in rollouts]
    titles = titles_of(everything)
    accuracy = rounds_table(run.validations) if run.validations else []
    state = state_of(run, accuracy)
    return MeasuredRun(
        run=run,
        state=state,
        progress=progress_of(run, state),
        accuracy=accuracy,
        other_tables={name: accuracy_table(rollouts) for name, rollouts in run.others.items()},
        rounds=rounds,
        pairs={found.number: best_and_worst(found, run.rounds[found.number - 1], titles) for found in rounds},
        typical=typical_of(run, titles),
        directives=directives_of(phases.values()),
        phases=seconds_of(run, everything),
        tokens=tokens_of(phases.values()),
        losses=losses_of(run.metrics),
        usage=usage_by_purpose(everything),
        left_out=left_out_of(run, phases),
        titles=titles,
    )
