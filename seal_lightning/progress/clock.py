"""The phases of a unit of work: how long each took, and who is told about progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a unit is: `done` of `total` in `phase`.

    Phases: questions (written by a model), baseline, sampling, inner loop, answering, grading, rubric. `waiting` is
    True while an endpoint is waited for: the listener may raise then, and answers already received are kept. `event`
    says where the phase itself is; an end is also reported where it fails.
    """

    phase: str
    done: int
    total: int
    waiting: bool = False
    event: Literal["begin", "advance", "end"] = "advance"


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A report that nobody reads."""


class Interrupted(Exception):
    """The run is to stop while a unit waits for an endpoint; what that has answered is in its cache."""


def interruptible(report: Report, *, stopping: Callable[[], int]) -> Report:
    """Tell `report`, but raise `Interrupted` where a unit only waits and the run is `stopping`."""

    def told(progress: Progress) -> None:
        if progress.waiting and stopping():
            raise Interrupted
        report(progress)

    return told


@dataclass(slots=True)
class Clock:
    """Seconds by phase."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Within it, call the yielded function with how many of `total` were finished since the last call."""
        started, done = time.perf_counter(), 0
        self.report(Progress(name, 0, total, event="begin"))

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.report(Progress(name, done, total, waiting=count == 0))

        try:
            yield advance
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.report(Progress(name, done, total, event="end"))
