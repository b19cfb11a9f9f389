"""The phases of a unit of work: how long each took, and who is told about progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a unit is: `done` of `total` in `phase`.

    Phases: questions (written by a model), baseline, sampling, inner loop, answering, grading, rubric.
    """

    phase: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(slots=True)
class Clock:
    """Seconds by phase."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Within it, call the yielded function with how many of `total` were finished since the last call."""
        started, done = time.perf_counter(), 0
        self.report(Progress(name, 0, total))

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.report(Progress(name, done, total))

        yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
