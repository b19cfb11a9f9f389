"""The E-step of a race: train, answer and grade as `racing.py` asks for, and say which edits were dropped.

Only what was trained has a trial in the end. An edit that was dropped keeps its answers for the journal, but gets no
reward; half-trained adapters count for nothing else. An edit of which an adapter diverged is out of the race; that is
its result, and it does not count as dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from seal_lightning.e_step.race_rule import Racing, Training, halved, race
from seal_lightning.e_step.scoring import Attempt, Trial
from seal_lightning.grading import Verdict
from seal_lightning.inner_loop.slots import AdapterState

States = Sequence[AdapterState | None]
Try = Callable[[Sequence[Attempt], States, Sequence[int] | None], tuple[Sequence[Trial | None], States]]
Grade = Callable[[Sequence[Attempt], Sequence[Trial | None]], Sequence[Sequence[Verdict]]]
Field = list[list[int]]  # of a context: the numbers of each usable edit's attempts, by repeat


@dataclass(frozen=True)
class RaceWork:
    """What a race needs of an E-step.

    Attributes:
        racing: Its rules.
        repeats: Of the plan.
        adapt: Trains adapters for some attempts, from where they stand and until a step, and lets them answer.
        grade: Verdicts on what they answered to their own queries.
        tokens: That training the adapter of an attempt takes.
        steps: Optimizer steps that it takes, at most.
    """

    racing: Racing
    repeats: int
    adapt: Try
    grade: Grade
    tokens: Callable[[Attempt], int]
    steps: Callable[[Attempt], int]


@dataclass(frozen=True, slots=True)
class Raced:
    """What was tried.

    Attributes:
        attempts: Those that were made, and one of each edit that was not.
        trials: What came of each.
        graded: Verdicts, by number of the attempt.
        dropped: Why an attempt's edit was given up, by number of the attempt.
    """

    attempts: Sequence[Attempt] = ()
    trials: Sequence[Trial | None] = ()
    graded: dict[int, Sequence[Verdict]] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)


def run_race(attempts: Sequence[Attempt], work: RaceWork) -> Raced:
    """Race the usable edits of a unit; what they are compared with (other kinds of attempts) is trained in full."""
    by_edit: dict[str, dict[int, list[int]]] = {}
    for number, attempt in enumerate(attempts):
        if attempt.kind == "edit" and attempt.edit.status == "ok":
            by_edit.setdefault(attempt.context.id, {}).setdefault(attempt.edit_index, []).append(number)
    fields = [list(edits.values()) for edits in by_edit.values()]
    found = _Found(attempts, work)
    found.train([number for number, attempt in enumerate(attempts) if attempt.kind != "edit"], grade=False)
    (_halve if work.racing.rungs else _allot)(found, fields)
    made = [number for number, attempt in enumerate(attempts) if number in found.trials or attempt.repeat == 0]
    place = {number: at for at, number in enumerate(made)}
    return Raced(
        attempts=[found.with_saved(number) for number in made],
        trials=[found.trials.get(number) for number in made],
        graded={place[number]: verdicts for number, verdicts in found.graded.items()},
        dropped={place[number]: reason for number, reason in found.dropped.items() if number in place},
    )


def _allot(found: _Found, fields: Sequence[Field]) -> None:
    """Whole trainings go where they decide."""
    work = found.work

    def train(chosen: Sequence[Training]) -> list[list[float] | None]:
        return found.train([fields[context][edit][repeat] for context, edit, repeat in chosen])

    costs = [[float(max(1, work.tokens(found.attempts[numbers[0]]))) for numbers in edits] for edits in fields]
    queries = [len(found.attempts[edits[0][0]].context.queries) for edits in fields]
    heats = race(work.racing, costs, queries, repeats=work.repeats, train=train)
    for heat, edits in zip(heats, fields, strict=True):
        survivors = heat.survivors(work.racing.keep)
        for edit, numbers in enumerate(edits):
            trained = int(heat.seen[edit]) + (edit in heat.out)
            found.saved[numbers[0]] = int((work.repeats - trained) * heat.costs[edit])
            if edit not in survivors and edit not in heat.out:
                found.dropped |= dict.fromkeys(numbers, f"racing: {trained} of {work.repeats} repeats trained")


def _halve(found: _Found, fields: Sequence[Field]) -> None:
    """All adapters go a part of the way, the better half of each context a part more, the last ones to the end."""
    work = found.work
    live = [[numbers[0] for numbers in edits] for edits in fields]
    states: dict[int, AdapterState | None] = {}
    for rung in work.racing.rungs:
        chosen = [number for numbers in live for number in numbers]
        until = {number: ceil(rung * work.steps(found.attempts[number])) for number in chosen}
        given = zip(chosen, found.train(chosen, states=states, until=until), strict=True)
        scores = {number: mine for number, mine in given if mine is not None}
        sound = [[number for number in numbers if number in scores] for numbers in live]
        better = [halved({number: scores[number] for number in numbers}, work.racing.keep) for numbers in sound]
        for number in set(chosen) - {number for numbers in better for number in numbers}:
            trial, attempt = found.trials[number], found.attempts[number]
            assert trial is not None
            if number in scores:
                found.dropped[number] = f"racing: {trial.steps} of {work.steps(attempt)} steps trained"
            found.saved[number] = max(0, work.tokens(attempt) - trial.trained_tokens)
        live = better
    chosen = [number for numbers in live for number in numbers]
    found.train(chosen, states=states)
    found.saved |= dict.fromkeys(chosen, 0)


class _Found:
    """What is known of the attempts while the race goes on."""

    def __init__(self, attempts: Sequence[Attempt], work: RaceWork) -> None:
        self.attempts, self.work = attempts, work
        self.trials: dict[int, Trial | None] = {}
        self.graded: dict[int, Sequence[Verdict]] = {}
        self.dropped: dict[int, str] = {}
        self.saved: dict[int, int] = {}  # tokens, at an edit's first attempt

    def train(
        self,
        numbers: Sequence[int],
        *,
        states: dict[int, AdapterState | None] | None = None,
        until: dict[int, int] | None = None,
        grade: bool = True,
    ) -> list[list[float] | None]:
        """Train some attempts on from their `states`, which are brought up to date.

        Returns:
            Their answers' scores; None for what diverged.
        """
        if not numbers:
            return []
        some = [self.attempts[number] for number in numbers]
        start = [states.get(number) for number in numbers] if states else ()
        trials, after = self.work.adapt(some, start, [until[number] for number in numbers] if until else None)
        for number, trial in zip(numbers, trials, strict=True):
            self.trials[number] = _added(self.trials.get(number), trial)
        if states is not None and until:
            states.update(zip(numbers, after, strict=True))
        if not grade:
            return []
        verdicts = self.work.grade(some, trials)
        scores: list[list[float] | None] = []
        for number, trial, given in zip(numbers, trials, verdicts, strict=True):
            diverged = trial is not None and bool(trial.diverged)
            scores.append(None if diverged else [verdict.score for verdict in given])
            if not diverged:
                self.graded[number] = _charged(self.graded.get(number), given)
        return scores

    def with_saved(self, number: int) -> Attempt:
        attempt = self.attempts[number]
        if number not in self.saved:
            return attempt
        return replace(attempt, tokens={**attempt.tokens, "saved": self.saved[number]})


def _added(former: Trial | None, trial: Trial | None) -> Trial | None:
    """The trial of an adapter that was trained on, with what it took to answer before."""
    if former is None or trial is None:
        return trial
    return replace(trial, answer_tokens=former.answer_tokens + trial.answer_tokens)


def _charged(former: Sequence[Verdict] | None, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """The verdicts on an adapter that was trained on, with what those before were charged with."""
    if former is None:
        return verdicts
    pairs = zip(former, verdicts, strict=True)
    return [replace(verdict, usage=earlier.usage + verdict.usage) for earlier, verdict in pairs]
