"""Work for worker processes that fails, dies or waits for a worker when it is told to; nothing heavy is imported here.

What is to happen is a list of words, one for each piece of work that any worker begins: `work`, `fail`, `die`. The file
`log` gets a line for each, so that the process beside the workers can wait for as many as it wants. No clock decides.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def is_worker() -> bool:
    """Whether this is a worker of another process."""
    return sys.argv[0].endswith("worker.py")


class Plan:
    """What happens in workers, and when the process beside them goes on.

    Args:
        log: File with a line for each piece of work that a worker has begun.
        events: What comes of them, in their order; `work` for any further ones.
        waits: By the number of a piece of work of the other process, counted from 1: how many lines it waits for.
    """

    def __init__(self, log: str, events: Sequence[str], waits: dict[str, int]) -> None:
        self.log, self.events, self.waits = Path(log), list(events), waits
        self.begun = 0

    def begin(self) -> None:
        """A piece of work begins."""
        if not is_worker():
            self.begun += 1
            while len(self.lines()) < self.waits.get(str(self.begun), 0):
                time.sleep(0.01)
            return
        number = len(self.lines())
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        event = dict(enumerate(self.events)).get(number, "work")
        if event == "fail":
            raise RuntimeError("a driver is broken")
        if event == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def lines(self) -> list[int]:
        """The numbers of the workers that have begun some work, as often as they have."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


class Square:
    """What a worker may be: squares numbers, or whatever it was told to do with them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def prepare(self, added: int) -> None:
        self.added = added

    def run(self, number: int) -> int:
        self.plan.begin()
        return number**2 + self.added


class Unprepared(Square):
    """A worker that is of no use."""

    def prepare(self, added: int) -> None:
        self.plan.begin()
        raise ValueError("there is no such model here")


class Hopeless(Square):
    """A worker that finds out that the configuration is wrong."""

    def run(self, number: int) -> int:
        from seal_lightning.errors import ConfigError

        self.plan.begin()
        raise ConfigError("model.grader: expected a grader, got none: add one")


class Talks(Square):
    """A worker that logs."""

    def run(self, number: int) -> int:
        import logging

        logging.getLogger("seal_lightning.elsewhere").warning("squaring %d", number)
        return super().run(number)


def made(kind: Callable[[Plan], Square], plan: Plan) -> Square:
    return kind(plan)
