"""What the parts of the E-step hand to each other: a unit at work, attempts, trials, replies and grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seal_lightning.grading import Verdict
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock
from seal_lightning.types import AdapterJob, Context, Kind, Query, SelfEdit, Usage

Queries = Sequence[tuple[Context, Query]]


@dataclass(frozen=True, slots=True)
class UnitRun:
    """Units at work, often a single one: they are sampled, trained and asked together, and know nothing of each other.

    Attributes:
        policy: Frozen and in evaluation mode.
        units: The contexts of each unit, with their queries; no id occurs twice.
        round: Counted from 0.
        clock: Measures the phases and reports progress.
        others: By context id, queries of the other contexts of its unit that its adapters are asked too.
    """

    policy: Policy
    units: Sequence[Sequence[Context]]
    round: int
    clock: Clock
    others: Mapping[str, Queries] = field(default_factory=dict)

    @property
    def contexts(self) -> list[Context]:
        """Those of all units, in order."""
        return [context for unit in self.units for context in unit]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One self-edit and repeat on its way to becoming a rollout.

    `usage` is what writing the edit cost; `is_cut` says that the edit ends at the limit of tokens. `edit_kind` is the
    name of the kind that was asked for, where the task has several.
    """

    context: Context
    kind: Kind
    edit_index: int
    repeat: int
    seed: int
    prompt: str
    edit: SelfEdit
    tokens: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = Usage()
    is_cut: bool = False
    edit_kind: str = ""

    @property
    def job(self) -> AdapterJob:
        """The adapter to train for it."""
        return AdapterJob(self.edit.training_sequences, seed=self.seed, directives=self.edit.applied)


@dataclass(frozen=True, slots=True)
class Replies:
    """The answers to some queries, the tokens they took together, and how many of them were cut at the limit.

    `thoughts` counts the texts from which thoughts were removed, `unfinished` those that ended within one. `finite` is
    False where the adapter's logits were not finite, so that the answers mean nothing.
    """

    answers: tuple[str, ...]
    tokens: int
    cut: int = 0
    thoughts: int = 0
    unfinished: int = 0
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """What an attempt's adapter answered: its context's queries, and queries of other contexts.

    `left_out` counts what was missing from its training and its answers. `diverged` says what was not finite where the
    adapter came to nothing; there are no answers then. `ignored` names directives that the model cannot follow.
    """

    answers: tuple[str, ...]
    retained: tuple[str, ...]
    steps: int
    trained_tokens: int
    answer_tokens: int
    teacher_tokens: int = 0
    thoughts: int = 0
    unfinished: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    diverged: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """What was tried of a unit's attempts.

    Attributes:
        attempts: Those that become rollouts.
        trials: What came of each; None where nothing was trained.
        graded: Verdicts that are known already, by number of the attempt.
        dropped: Why an attempt's edit was given up, by number of the attempt.
    """

    attempts: Sequence[Attempt]
    trials: Sequence[Trial | None]
    graded: Mapping[int, Sequence[Verdict]] = field(default_factory=dict)
    dropped: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grades:
    """The verdicts on an attempt.

    Attributes:
        before: On the baseline's answers.
        after: On the adapter's answers; empty where nothing was trained.
        others: On queries of other contexts, before and after; None where they are not asked.
        rubric: On the edit itself, in place of all these.
    """

    before: Sequence[Verdict] = ()
    after: Sequence[Verdict] = ()
    others: tuple[Sequence[Verdict], Sequence[Verdict]] | None = None
    rubric: Verdict | None = None


def queries_of(context: Context) -> list[tuple[Context, Query]]:
    """The context's queries, each with the context that it is about."""
    return [(context, query) for query in context.queries]
