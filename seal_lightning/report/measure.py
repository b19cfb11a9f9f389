"""What a report says of a run, computed from its rollouts: figures by round, what was kept, lengths, costs, examples.

Accuracies and their intervals are those of `seal fit` and `seal test` (accuracy.py), shares and rewards those of
`seal replay` (edits.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from seal_lightning.report.read import Run, lookup
from seal_lightning.report.rounds import Pair, RoundFigures, best_and_worst, round_figures, typical_of
from seal_lightning.results.accuracy import AccuracyRow, accuracy_table, rounds_table
from seal_lightning.results.averages import by_context, by_edit
from seal_lightning.results.left_out import added, render_left_out, total_left_out
from seal_lightning.results.pairing import titles_of
from seal_lightning.results.usage import total_seconds, total_tokens, usage_by_purpose
from seal_lightning.results.verdict import said
from seal_lightning.text.plural import counted
from seal_lightning.types import Rollout, Usage

State = Literal["finished", "unfinished", "begun", "published"]

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


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run with everything that a report says of it.

    Attributes:
        run: The run as it lies on disk.
        state: Whether it has finished.
        progress: How far it has come, in words.
        accuracy: The table over rounds; empty where nothing was validated.
        other_tables: The accuracy tables of tests, by the journal's name.
        rounds: The E-steps.
        pairs: Best and worst edits of each round, by its number.
        typical: A held-out context before and after training.
        directives: What edits asked for, by directive.
        phases: Seconds of computing by phase.
        tokens: Tokens used, by purpose.
        losses: Losses of the M-steps by round: mean of the first and last tenth of the batches, and their number.
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
    pairs: Mapping[int, Sequence[Pair]]
    typical: Pair | None
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
    def generates(self) -> bool:
        """Whether its edits have no text: they are adapters that a generator wrote."""
        phases = (*self.run.rounds.values(), *self.run.validations.values(), *self.run.others.values())
        usable = [one for rollouts in phases for one in rollouts if one.kind == "edit" and one.status != "rejected"]
        return bool(usable) and not any(one.text for one in usable)

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
    phases = {
        **{f"round {number + 1} E-step": rollouts for number, rollouts in run.rounds.items()},
        **{f"validation {number}": rollouts for number, rollouts in run.validations.items()},
        **run.others,
    }
    everything = [rollout for rollouts in phases.values() for rollout in rollouts]
    titles = titles_of(everything)
    accuracy = rounds_table(run.validations) if run.validations else []
    state = _state(run, accuracy)
    return MeasuredRun(
        run=run,
        state=state,
        progress=_progress(run, state),
        accuracy=accuracy,
        other_tables={name: accuracy_table(rollouts) for name, rollouts in run.others.items()},
        rounds=rounds,
        pairs={found.number: best_and_worst(found, run.rounds[found.number - 1], titles) for found in rounds},
        typical=typical_of(run, titles),
        directives=_directives(phases.values()),
        phases=_seconds(run, everything),
        tokens=_tokens(phases.values()),
        losses=_losses(run.metrics),
        usage=usage_by_purpose(everything),
        left_out=_left_out(run, phases),
        titles=titles,
    )


def _directives(phases: Iterable[Sequence[Rollout]]) -> dict[str, list[DirectiveValue]]:
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


def _seconds(run: Run, rollouts: Iterable[Rollout]) -> list[Cost]:
    """Seconds by phase over all rollouts, largest first, and of the M-steps where they were logged."""
    seconds = total_seconds(rollouts)
    if spent := sum(row.get("m_step/seconds", 0.0) for row in run.metrics):
        seconds["M-step"] = spent
    total = sum(seconds.values()) or 1.0
    return [Cost(name, spent, spent / total) for name, spent in sorted(seconds.items(), key=lambda item: -item[1])]


def _tokens(phases: Iterable[Sequence[Rollout]]) -> dict[str, int]:
    """Tokens used, by purpose; what races saved was not."""
    total: Counter[str] = Counter()
    for rollouts in phases:  # the same edit may stand in a round and in a validation
        total.update(total_tokens(rollouts))
    return {name: count for name, count in total.items() if name != "saved"}


def _losses(metrics: Sequence[Mapping[str, float]]) -> dict[int, tuple[float, float, int]]:
    by_round: dict[int, list[float]] = {}
    for row in metrics:
        if "m_step/loss" in row and "epoch" in row:
            by_round.setdefault(int(row["epoch"]) + 1, []).append(row["m_step/loss"])
    found = {}
    for number, losses in by_round.items():
        tenth = math.ceil(len(losses) / 10)
        found[number] = (fmean(losses[:tenth]), fmean(losses[-tenth:]), len(losses))
    return found


def _left_out(run: Run, phases: Mapping[str, Sequence[Rollout]]) -> dict[str, str]:
    """What was cut, skipped or dropped, as a line, by phase."""
    lines = {phase: render_left_out(total_left_out(rollouts)) for phase, rollouts in phases.items()}
    cut = [int(row["m_step/truncated"]) for row in run.metrics if "m_step/truncated" in row]
    lines["M-steps"] = f"{sum(cut):,} edits lost their end: raise m_step.max_length" if cut else ""
    lines["adapters"] = render_left_out(added([adapter.left_out for adapter in run.adapters]))
    return {phase: line for phase, line in lines.items() if line}


# -- where it is -------------------------------------------------------------------------------------------------------


def _state(run: Run, accuracy: Sequence[AccuracyRow]) -> State:
    if run.recorded:
        return "published"
    if not run.begun:
        return "begun"
    if not run.validations:
        ended = max((one.round for one in run.selection.candidates), default=0) if run.selection else run.exported
        exported = bool(ended) and ended >= _planned(run)
        contexts = max((len(by_context(rollouts)) for rollouts in run.rounds.values()), default=0)
        adapted = run.concluded or len(run.adapters) >= contexts > 0  # older folders say nothing where none was asked
        streams = sum(matrix.sequences for matrix in run.matrices)
        over = exported or adapted or streams >= max(_streams(run), 1) or (run.results and not run.rounds)
        return "finished" if over else "unfinished"
    saved = run.results.accuracy if run.results else ()
    tabled = sum(row.name.startswith("edits") for row in saved)
    every = lookup(run.config, "trainer.check_val_every_n_epoch")
    pending = max(run.rounds, default=-1) + 1 - max(run.validations, default=0)
    over = pending < (every if isinstance(every, int) and every else 1)
    complete = bool(saved) and tabled == sum(row.name.startswith("edits") for row in accuracy)
    return "finished" if complete and over else "unfinished"


def _planned(run: Run) -> int:
    """Rounds that the configuration asks for; 0 where it does not say."""
    rounds = lookup(run.config, "trainer.max_epochs")
    return rounds if isinstance(rounds, int) else 0


def _streams(run: Run) -> int:
    """Streams that the configuration of `seal continual` asks for; 0 where it is not one."""
    orders, seeds, measures = (lookup(run.config, name) for name in ("orders", "seeds", "countermeasures"))
    if not (isinstance(orders, int) and isinstance(seeds, int) and isinstance(measures, list)):
        return 0
    return orders * seeds * (len(measures) + 1)


def _progress(run: Run, state: State) -> str:
    if state == "published":
        return "published"
    if state == "begun":
        return "begun: no unit of work is finished yet"
    if state == "finished" and run.adapters:
        return f"finished: {counted(len(run.adapters), 'adapter')}"
    if state == "finished":
        return f"finished: {counted(len(run.rounds), 'round')}" if run.rounds else "finished"
    if run.matrices and _streams(run):
        return f"not finished: {sum(matrix.sequences for matrix in run.matrices)} of {_streams(run)} streams"
    if not run.rounds and not run.validations:
        return "not finished"
    of = f" of {_planned(run)}" if _planned(run) else ""
    last_round, last_validation = max(run.rounds, default=-1), max(run.validations, default=-1)
    if last_validation > last_round:
        name = f"validation after round {last_validation}" if last_validation else "validation before training"
        return f"not finished: {name}{of}, {_contexts(run.validations, last_validation)}"
    return f"not finished: round {last_round + 1}{of}, E-step, {_contexts(run.rounds, last_round)}"


def _contexts(phases: Mapping[int, Sequence[Rollout]], number: int) -> str:
    """How many contexts of a phase are finished, of how many the earlier ones had."""
    counts = {key: len(by_context(rollouts)) for key, rollouts in phases.items()}
    return f"{counts[number]} of {max(counts.values())} contexts" if len(counts) > 1 else f"{counts[number]} contexts"
