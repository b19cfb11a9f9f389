"""Questions that have nothing to do with the documents: what learning those has cost (`--unrelated`).

Every question is a context of its own with a single query and no passage. An adapter of one document is asked a few of
them, others than the next adapter, so that many adapters do not take long; the one for all is asked more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from seal_lightning.e_step.closed_book import Answered
from seal_lightning.errors import ConfigError
from seal_lightning.files.rows import read_rows
from seal_lightning.files.shipped import find_file
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Knowledge, Task
from seal_lightning.types import Context

OPTION = "--unrelated"
GENERAL = "configs/unrelated/general.jsonl"
NONE = "none"
OF_ONE, OF_ALL = 12, 60  # most questions for the adapter of a document, and for that of all


@dataclass(frozen=True, slots=True)
class Unrelated:
    """The questions, and what the policy answers without an adapter, by id.

    Attributes:
        contexts: A context for each question.
        before: The answers without an adapter, once they are known.
    """

    contexts: tuple[Context, ...] = ()
    before: Mapping[str, Answered] = field(default_factory=dict)

    def asked_of(self, adapter: str, *, most: int) -> list[Context]:
        """The questions for an adapter, in the order of the file: drawn by its name, whatever other adapters there are.

        A question that is added to the file changes at most one of them.
        """
        drawn = sorted(self.contexts, key=lambda one: derive_seed("unrelated", adapter, one.queries[0].question))[:most]
        return [context for context in self.contexts if context in drawn]

    def asked_in_all(self, of_one: int, of_all: bool) -> int:
        """How many answers they take with so many adapters of one document, and one of all if there is one."""
        known = len(self.contexts)
        return known + of_one * min(known, OF_ONE) + of_all * min(known, OF_ALL)


def read_unrelated(named: str | None, task: Task) -> tuple[Context, ...]:
    """The questions of a file; none with `none`, and none of the built-in ones for a task that asks other things.

    Raises:
        ConfigError: The task asks with a context in its prompt, which such a question does not have.
        DataError: The file cannot be read.
    """
    if named is None or named == NONE or (named == GENERAL and not isinstance(task, Knowledge)):
        return ()
    if task.asks_with_context:
        raise ConfigError(
            f"{OPTION} {named}: expected a task that asks questions without their context, got "
            f"{type(task).__name__}: leave it out"
        )
    rows = read_rows(find_file(Path(named).expanduser()))
    return tuple(
        Context(f"unrelated-{number:03d}", row.title(), "", (row.query("answer", "answers"),))
        for number, row in enumerate(rows)
    )


def together(contexts: Sequence[Context], answers: Mapping[str, Answered]) -> Answered:
    """The answers to some questions as those to one context."""
    some = [answers[context.id] for context in contexts]
    return Answered(
        tuple(chain.from_iterable(one.answers for one in some)),
        tuple(chain.from_iterable(one.scores for one in some)),
        sum(one.cut for one in some),
    )
