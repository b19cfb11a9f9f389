"""The carriers between the steps of SEAL, in the order in which a round makes them.

Context and queries -> prompt -> self-edit -> adapter job -> rollout -> group. Everything here is frozen data of the
standard library; the verbs live with the step that owns them. A rollout that came to nothing is data too: it has a
status and a reason and is counted, it is never an exception (arXiv 2506.10943, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias, Union

Status = Literal["ok", "rejected", "diverged"]
Kind = Literal["edit", "passage", "written"]
Schedule = Literal["linear", "cosine", "constant"]
# What JSON and YAML can hold, once parsed.
Json: TypeAlias = Union[bool, int, float, str, "list[Json]", "dict[str, Json]", None]
JsonObject: TypeAlias = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Query:
    """A held-out question that scores an adaptation; `golds` are the accepted answers, the first one is canonical.

    Without golds it can only be answered (`seal predict`).
    """

    question: str
    golds: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What the model adapts to: a titled passage, its queries, and self-edits written beforehand (if any)."""

    id: str
    title: str
    passage: str
    queries: tuple[Query, ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def is_scorable(self) -> bool:
        """Whether it has queries, and each of them golds."""
        return bool(self.queries) and all(query.golds for query in self.queries)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is answered to a query after adapting to several self-edits.

    Attributes:
        context: What was adapted to.
        query: The query, with golds or without.
        answer: The answer that counts.
        answers: What it is made of: the answer of each adapter.
        alone: The policy's answer without an adapter.
    """

    context: Context
    query: Query
    answer: str
    answers: tuple[str, ...]
    alone: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to the policy before its chat template.

    A base model reads `user` followed by `lead`; an instruct model gets `system` and `user` as messages of its chat
    template and never sees `lead` (the words after which a base model starts to write). A `plain` prompt is read by an
    instruct model as by a base model: without the template, as training sequences are.
    """

    user: str
    lead: str = ""
    system: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What an endpoint was asked, and what that cost.

    `requests` were answered by the endpoint, `cached` ones from disk, which costs nothing. `dollars` is None where no
    price is known.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = None

    def __add__(self, other: Usage) -> Usage:
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        known = [dollars for dollars in (self.dollars, other.dollars) if dollars is not None]
        return Usage(**counts, dollars=sum(known) if known else None)

    def as_dict(self) -> dict[str, float]:
        """What there is, for the journal; empty where nothing was asked. A price of 0 is one that is known."""
        values: dict[str, float] = {name: count for name in _COUNTS if (count := getattr(self, name))}
        if self.dollars is not None and (self.requests or self.cached):
            values["dollars"] = self.dollars
        return values

    @staticmethod
    def from_dict(values: Mapping[str, float]) -> Usage:
        """The usage that `as_dict` gave."""
        return Usage(**{name: int(values.get(name, 0)) for name in _COUNTS}, dollars=values.get("dollars"))


_COUNTS = tuple(field.name for field in fields(Usage) if field.name != "dollars")


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a model wrote, and what an endpoint charged for it (nothing where the model is here).

    `cut` says that it ends where the limit of tokens is.
    """

    text: str
    usage: Usage = Usage()
    cut: bool = False


class Writer(Protocol):
    """A model that answers requests: the policy itself, or one behind an endpoint."""

    def write(self, prompts: Sequence[Prompt], *, max_tokens: int) -> list[Written]:
        """The most likely answer to each prompt, in order, of at most `max_tokens` tokens."""
        ...


class Chooser(Writer, Protocol):
    """A model that also tells how likely it finds given answers: the policy itself."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """The probability of each option as the answer to each prompt; they add up to 1."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One sequence for the inner loop: the loss is on `text`; `prompt` comes before it and carries no loss."""

    text: str
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Directives:
    """Training choices that a self-edit may carry; None leaves the inner loop's own setting in force."""

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True)
class SelfEdit:
    """A parsed self-edit. `reason` is empty for a usable one; otherwise it says why nothing can be trained on it.

    `thoughts` counts those that were cut out of what the model wrote before `text`, which the policy is trained on.
    `left_out` counts the pieces beyond what the task takes.
    """

    text: str
    training_sequences: tuple[TrainingSequence, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    applied: Directives = Directives()
    reason: str = ""
    thoughts: int = 0
    left_out: int = 0

    @property
    def status(self) -> Status:
        return "rejected" if self.reason else "ok"


@dataclass(frozen=True, slots=True)
class AdapterJob:
    """One adapter to train: `training_sequences`, its seed, and the directives and rank that differ from the loop's."""

    training_sequences: tuple[TrainingSequence, ...]
    seed: int
    directives: Directives = Directives()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One self-edit and one repeat of its inner loop, with everything needed to score or replay it later.

    `status` is "rejected" where nothing could be trained on, "diverged" where the adapter came out not finite, or made
    logits that are not; `reason` says what. Such an adapter is thrown away, so the policy answers as before: `score` is
    the baseline's, and there is no reward.
    `kind` is "passage" where the adapter was trained on the passage alone, "written" where on a self-edit that the data
    carries: baselines that sample nothing.
    `baseline_answers`, `answers`, `questions` and `golds` are aligned by query. `scores` are in [0, 1]. `terms` are
    what the reward is made of, before weights; `retention` is the change of accuracy on other contexts' queries, where
    it was asked for. `dropped` says why a race gave the edit up, where it did: nothing keeps such an edit, and its
    score is no measure. `title` and `passage_digest` (`seal_lightning.results.pairing`) say which context it was, where
    it has them.

    One rule for costs and counts: each stands once, at the first rollout that it was spent for, so that sums over
    rollouts are totals. `steps` are the adapter's optimizer steps. `tokens` counts `prompt`, `edit`, `trained` (over
    all epochs), `answers`, and what a race `saved`. `seconds` are wall-clock time by phase, `usage` what endpoints were
    asked for, by purpose (`Usage.as_dict`). `thoughts` counts texts: `edit` and `answers` are those that thoughts were
    cut out of, `unfinished` the answers that are empty, since they end within one. `left_out` counts what was cut,
    skipped or dropped. Two do not follow the rule, since the rollout of every repeat states them again: `prompt` and
    `edit` of `tokens` (sum them with `seal_lightning.results.usage.total_tokens`), and what `left_out` says of an edit
    (`seal_lightning.results.left_out.total_left_out`).
    """

    round: int
    context_id: str
    edit_index: int
    repeat: int
    seed: int
    prompt: str
    text: str
    status: Status
    reason: str = ""
    kind: Kind = "edit"
    asked: Mapping[str, Any] = field(default_factory=dict)
    applied: Mapping[str, Any] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    golds: tuple[tuple[str, ...], ...] = ()
    baseline_answers: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    baseline_scores: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    baseline: float = 0.0
    score: float = 0.0
    gain: float = 0.0
    reward: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    retention: float | None = None
    dropped: str = ""
    thoughts: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    title: str = ""
    passage_digest: str = ""


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """One self-edit with its repeats averaged: what a filter chooses from. An edit that was rejected or dropped, or of
    which a repeat diverged, has `reward` None."""

    context_id: str
    edit_index: int
    prompt: str
    text: str
    reward: float | None
    score: float
    gain: float
    repeats: int
    baseline: float = 0.0


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """All outcomes of one context in one round, ordered by edit index."""

    context_id: str
    outcomes: tuple[EditOutcome, ...]
