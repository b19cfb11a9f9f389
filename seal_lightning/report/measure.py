"""What a report says of a run, computed from its rollouts: figures by round, what was kept, lengths, costs, examples.

Accuracies and their intervals are those of `seal fit` and `seal test` (accuracy.py), shares and rewards those of
`seal replay` (edits.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import Literal

from seal_lightning.m_step.selection import group_rollouts, without_merit
from seal_lightning.records.entries import chosen
from seal_lightning.report.read import Run
from seal_lightning.report.settings import lookup
from seal_lightning.results.accuracy import AccuracyRow, accuracy_table, rounds_table
from seal_lightning.results.averages import Bounds, by_context, interval
from seal_lightning.results.edits import Figures, Rewards, figures_of, rewards_of
from seal_lightning.results.left_out import added, render_left_out, total_left_out
from seal_lightning.results.pairing import titles_of
from seal_lightning.results.typical import typical_pair
from seal_lightning.results.usage import total_seconds, total_tokens, usage_by_purpose
from seal_lightning.results.verdict import said
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup, Usage

Change = Literal["won", "lost", "right", "wrong"]
State = Literal["finished", "unfinished", "begun", "published"]
PAIRS = 3  # of a best and a worst edit
RIGHT = 0.5  # a score from which an answer counts as right where it is marked as such
DIRECTIVES = 8  # values shown of one directive


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


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query, and what an adapter changed about its answer."""

    question: str
    gold: str
    before: str
    after: str
    change: Change


@dataclass(frozen=True, slots=True)
class Example:
    """A self-edit and what came of it. `repeats` were trained; the answers are the first one's, the scores all's."""

    label: str
    context_id: str
    title: str
    edit_index: int
    prompt: str
    text: str
    reward: float | None
    baseline: float
    score: float
    repeats: int
    kept: bool
    queries: tuple[QueryChange, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two self-edits to look at side by side."""

    left: Example
    right: Example


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
class Measured:
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


def measure(run: Run) -> Measured:
    """Compute what there is to say of a run."""
    rounds = [_round(number, rollouts, run) for number, rollouts in run.rounds.items()]
    everything = [rollout for rollouts in _all(run).values() for rollout in rollouts]
    titles = titles_of(everything)
    accuracy = rounds_table(run.validations) if run.validations else []
    state = _state(run, accuracy)
    return Measured(
        run=run,
        state=state,
        progress=_progress(run, state),
        accuracy=accuracy,
        other_tables={name: accuracy_table(rollouts) for name, rollouts in run.others.items()},
        rounds=rounds,
        pairs={found.number: best_and_worst(found, run.rounds[found.number - 1], titles) for found in rounds},
        typical=_typical(run, titles),
        directives=directives_of(_all(run).values()),
        phases=_phases(run, everything),
        tokens=_tokens(run),
        losses=_losses(run.metrics),
        usage=usage_by_purpose(everything),
        left_out=_left_out(run),
        titles=titles,
    )


def _left_out(run: Run) -> dict[str, str]:
    lines = {phase: render_left_out(total_left_out(rollouts)) for phase, rollouts in _all(run).items()}
    cut = [int(row["m_step/truncated"]) for row in run.metrics if "m_step/truncated" in row]
    lines["M-steps"] = f"{sum(cut):,} kept edits lost their end: raise m_step.max_length" if cut else ""
    lines["adapters"] = render_left_out(added([adapter.left_out for adapter in run.adapters]))
    return {phase: line for phase, line in lines.items() if line}


def _all(run: Run) -> dict[str, Sequence[Rollout]]:
    """The rollouts of a run by what they were for."""
    return {
        **{f"round {number + 1} E-step": rollouts for number, rollouts in run.rounds.items()},
        **{f"validation {number}": rollouts for number, rollouts in run.validations.items()},
        **run.others,
    }


# -- where a run is ----------------------------------------------------------------------------------------------------


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
    whole = isinstance(orders, int) and isinstance(seeds, int) and isinstance(measures, list)
    return orders * seeds * (len(measures) + 1) if whole else 0


def _progress(run: Run, state: State) -> str:
    if state == "published":
        return "published"
    if state == "begun":
        return "begun: no unit of work is finished yet"
    if state == "finished" and run.adapters:
        return f"finished: {len(run.adapters):,} adapter{'s' if len(run.adapters) != 1 else ''}"
    if state == "finished":
        count = len(run.rounds)
        return f"finished: {count} round{'s' if count != 1 else ''}" if count else "finished"
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


# -- rounds ------------------------------------------------------------------------------------------------------------


def _round(number: int, rollouts: Sequence[Rollout], run: Run) -> RoundFigures:
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


# -- examples ----------------------------------------------------------------------------------------------------------


def best_and_worst(
    found: RoundFigures, rollouts: Sequence[Rollout], titles: Mapping[str, str], *, count: int = PAIRS
) -> list[Pair]:
    """The best and the worst usable edit of the contexts in which they differ most in reward.

    Where contexts have one edit each, of one context the best and of another the worst.
    """
    usable = [[outcome for outcome in group.outcomes if outcome.reward is not None] for group in found.groups]
    ranked = [sorted(group, key=lambda one: (-(one.reward or 0.0), one.edit_index)) for group in usable if group]
    several = [(group[0], group[-1]) for group in ranked if len(group) > 1]
    if not several:
        single = sorted((group[0] for group in ranked), key=lambda one: -(one.reward or 0.0))
        several = [(single[at], single[-1 - at]) for at in range(len(single) // 2)]
    several.sort(key=lambda pair: (pair[1].reward or 0.0) - (pair[0].reward or 0.0))
    repeats = _repeats(rollouts)
    kept = {(outcome.context_id, outcome.edit_index) for outcome in found.kept or ()}
    return [
        Pair(*(_example(label, repeats[edit.context_id, edit.edit_index], kept, titles)
               for label, edit in zip(("best", "worst"), pair, strict=True)))
        for pair in several[:count]
    ]  # fmt: skip


def _repeats(rollouts: Iterable[Rollout]) -> dict[tuple[str, int], list[Rollout]]:
    found: dict[tuple[str, int], list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.kind == "edit":
            found.setdefault((rollout.context_id, rollout.edit_index), []).append(rollout)
    return found


def _example(label: str, repeats: Sequence[Rollout], kept: set[tuple[str, int]], titles: Mapping[str, str]) -> Example:
    first = repeats[0]
    rewards = [rollout.reward for rollout in repeats if rollout.reward is not None]
    return Example(
        label=label,
        context_id=first.context_id,
        title=titles[first.context_id],
        edit_index=first.edit_index,
        prompt=first.prompt,
        text=first.text,
        reward=fmean(rewards) if rewards else None,
        baseline=fmean(rollout.baseline for rollout in repeats),
        score=fmean(rollout.score for rollout in repeats),
        repeats=len(repeats),
        kept=(first.context_id, first.edit_index) in kept,
        queries=changes_of(first),
    )


def changes_of(rollout: Rollout) -> tuple[QueryChange, ...]:
    """What became of each query; none where nothing was answered."""
    if not rollout.answers:
        return ()
    before = rollout.baseline_answers or ("",) * len(rollout.answers)
    scores = rollout.baseline_scores or (0.0,) * len(rollout.answers)
    rows = zip(rollout.questions, rollout.golds, before, rollout.answers, scores, rollout.scores, strict=True)
    return tuple(
        QueryChange(question, " | ".join(golds), earlier, later, _change(was, now))
        for question, golds, earlier, later, was, now in rows
    )


def _change(was: float, now: float) -> Change:
    if now >= RIGHT:
        return "right" if was >= RIGHT else "won"
    return "lost" if was >= RIGHT else "wrong"


def _typical(run: Run, titles: Mapping[str, str]) -> Pair | None:
    """One held-out context before training and after the last round."""
    if len(run.validations) < 2:
        return None
    first, last = run.validations[min(run.validations)], run.validations[max(run.validations)]
    if not (set(_repeats(first)) and {name for name, _ in _repeats(first)} & {name for name, _ in _repeats(last)}):
        return None
    before, after = typical_pair(first, last)
    label = f"after round {max(run.validations)}"
    return Pair(_example("before training", [before], set(), titles), _example(label, [after], set(), titles))


# -- directives and costs ----------------------------------------------------------------------------------------------


def directives_of(phases: Iterable[Sequence[Rollout]]) -> dict[str, list[DirectiveValue]]:
    """The values that edits asked for, most frequent first, and the mean score of the edits that did.

    Repeats of an edit are averaged first; edits that a race dropped have no score and are left out.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for rollouts in phases:
        for repeats in _repeats(rollout for rollout in rollouts if not rollout.dropped).values():
            for name, value in repeats[0].asked.items():
                score = fmean(rollout.score for rollout in repeats)
                scores.setdefault(str(name), {}).setdefault(str(value), []).append(score)
    return {
        name: [
            DirectiveValue(value, len(found), fmean(found))
            for value, found in sorted(values.items(), key=lambda item: -len(item[1]))[:DIRECTIVES]
        ]
        for name, values in list(scores.items())[:DIRECTIVES]
    }


def _phases(run: Run, rollouts: Iterable[Rollout]) -> list[Cost]:
    """Seconds by phase over all rollouts, largest first, and of the M-steps where they were logged."""
    seconds = total_seconds(rollouts)
    if spent := sum(row.get("m_step/seconds", 0.0) for row in run.metrics):
        seconds["M-step"] = spent
    total = sum(seconds.values()) or 1.0
    return [Cost(name, spent, spent / total) for name, spent in sorted(seconds.items(), key=lambda item: -item[1])]


def _tokens(run: Run) -> dict[str, int]:
    """Tokens that were used, by purpose; what races saved was not."""
    total: Counter[str] = Counter()
    for rollouts in _all(run).values():  # the same edit may stand in a round and in a validation
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
