"""The trials of a race: train, answer and grade what the rule asks for, and say which edits were dropped.

Only what was trained has a trial in the end. An edit that was dropped keeps its answers for the journal but gets no
reward. An edit of which an adapter diverged is out of the race; that is its result, and it does not count as dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seal_lightning.e_step.carriers import Attempt, Trial, Tried, UnitRun
from seal_lightning.e_step.race_rule import Heat, Racing, Training, race
from seal_lightning.e_step.trials import AllTrials, TrialParts
from seal_lightning.e_step.verdicts import grade_own
from seal_lightning.grading import Verdict
from seal_lightning.sampling import PolicyWriter

Field = list[list[int]]  # of a context: the numbers of each usable edit's attempts, by repeat


@dataclass(frozen=True, slots=True)
class Race:
    """Trains only what decides which edits are kept, by the rules of `racing`."""

    racing: Racing

    def run(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> Tried:
        """Race the usable edits of a unit; what they are compared with (other kinds of attempts) is trained in full."""
        course = _Course(parts, unit, attempts)
        course.train([number for number, attempt in enumerate(attempts) if attempt.kind != "edit"])
        fields = _fields(attempts)

        def train(chosen: Sequence[Training]) -> list[list[float] | None]:
            return course.race([fields[context][edit][repeat] for context, edit, repeat in chosen])

        costs = [[course.cost(numbers[0]) for numbers in edits] for edits in fields]
        queries = [len(attempts[edits[0][0]].context.queries) for edits in fields]
        heats = race(self.racing, costs, queries, repeats=parts.plan.repeats, train=train)
        for heat, edits in zip(heats, fields, strict=True):
            course.close(heat, edits, survivors=heat.survivors(self.racing.keep))
        return course.tried()


def _fields(attempts: Sequence[Attempt]) -> list[Field]:
    by_edit: dict[str, dict[int, list[int]]] = {}
    for number, attempt in enumerate(attempts):
        if attempt.kind == "edit" and attempt.edit.status == "ok":
            by_edit.setdefault(attempt.context.id, {}).setdefault(attempt.edit_index, []).append(number)
    return [list(edits.values()) for edits in by_edit.values()]


class _Course:
    """What is known of a unit's attempts while the race goes on."""

    def __init__(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> None:
        self.parts, self.unit, self.attempts = parts, unit, attempts
        self.trials: dict[int, Trial | None] = {}
        self.graded: dict[int, Sequence[Verdict]] = {}
        self.dropped: dict[int, str] = {}
        self.saved: dict[int, int] = {}  # tokens, at an edit's first attempt

    def cost(self, number: int) -> float:
        """Training tokens that an attempt's adapter takes."""
        job = self.attempts[number].job
        return float(max(1, self.parts.inner_loop.trained_tokens(self.unit.policy, job)))

    def train(self, numbers: Sequence[int]) -> list[Trial | None]:
        trials = AllTrials().run(self.parts, self.unit, [self.attempts[number] for number in numbers]).trials
        self.trials |= zip(numbers, trials, strict=True)
        return list(trials)

    def race(self, numbers: Sequence[int]) -> list[list[float] | None]:
        """Train some attempts; returns the scores of their answers, None for what diverged."""
        trials, some = self.train(numbers), [self.attempts[number] for number in numbers]
        writer = PolicyWriter(self.unit.policy)
        verdicts = grade_own(self.parts.grader, some, trials, policy=writer, clock=self.unit.clock)
        scores: list[list[float] | None] = []
        for number, trial, given in zip(numbers, trials, verdicts, strict=True):
            diverged = trial is not None and bool(trial.diverged)
            scores.append(None if diverged else [verdict.score for verdict in given])
            if not diverged:
                self.graded[number] = given
        return scores

    def close(self, heat: Heat, edits: Field, *, survivors: Sequence[int]) -> None:
        """Write down what the race of a context has saved and dropped."""
        for edit, numbers in enumerate(edits):
            trained = int(heat.seen[edit]) + (edit in heat.out)
            self.saved[numbers[0]] = int((heat.repeats - trained) * heat.costs[edit])
            if edit not in survivors and edit not in heat.out:
                self.dropped |= dict.fromkeys(numbers, f"racing: {trained} of {heat.repeats} repeats trained")

    def tried(self) -> Tried:
        """The attempts that were tried, and the first of each edit that was not."""
        made = [n for n, attempt in enumerate(self.attempts) if n in self.trials or attempt.repeat == 0]
        place = {number: at for at, number in enumerate(made)}
        saved = [{"saved": self.saved[number]} if number in self.saved else {} for number in made]
        some = [self.attempts[number] for number in made]
        return Tried(
            attempts=[replace(one, tokens={**one.tokens, **more}) for one, more in zip(some, saved, strict=True)],
            trials=[self.trials.get(number) for number in made],
            graded={place[number]: verdicts for number, verdicts in self.graded.items()},
            dropped={place[number]: reason for number, reason in self.dropped.items() if number in place},
        )
