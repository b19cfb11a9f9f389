"""The data that passes between the steps of SEAL, in the order in which a round makes it.

Context and queries -> prompt -> self-edit -> adapter job -> rollout -> group. These are frozen dataclasses without
behaviour; each step's code lies in the room of that step. A failed rollout is data too: it carries a status and a
reason and is counted, it is never an exception (arXiv 2506.10943, section 3).
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
    """A held-out question that scores an adaptation; `golds` are the accepted answers, the canonical one first.

    A query without golds can be answered (`seal predict`) but not scored.
    """

    question: str
    golds: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """What the model adapts to: a titled passage, its queries, and any self-edits written beforehand."""

    id: str
    title: str
    passage: str
    queries: tuple[Query, ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def is_scorable(self) -> bool:
        """Whether the context has queries, each with golds."""
        return bool(self.queries) and all(query.golds for query in self.queries)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to a query after adapting to several self-edits.

    Attributes:
        context: The context that was adapted to.
        query: The query, with or without golds.
        answer: The answer that counts.
        answers: The answer of each adapter, from which `answer` was chosen.
        alone: The policy's answer without an adapter.
    """

    context: Context
    query: Query
    answer: str
    answers: tuple[str, ...]
    alone: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to the policy, before the chat template.

    A base model reads `user` followed by `lead`, the words after which it starts to write. An instruct model gets
    `system` and `user` as messages of its chat template and never sees `lead`. A `plain` prompt reaches an instruct
    model without the template too, as training sequences do.
    """

    user: str
    lead: str = ""
    system: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """How often an endpoint was asked, and what that cost.

    `requests` counts answers from the endpoint, `cached` those read from disk free of charge. `dollars` is None where
    no price is known.
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
        """The figures that are not zero, for the journal; empty if nothing was asked. A known price of 0 is kept."""
        values: dict[str, float] = {name: count for name in _COUNTS if (count := getattr(self, name))}
        if self.dollars is not None and (self.requests or self.cached):
            values["dollars"] = self.dollars
        return values

    @staticmethod
    def from_dict(values: Mapping[str, float]) -> Usage:
        """The usage from which `as_dict` made these values."""
        return Usage(**{name: int(values.get(name, 0)) for name in _COUNTS}, dollars=values.get("dollars"))


_COUNTS = tuple(field.name for field in fields(Usage) if field.name != "dollars")


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a model wrote, and what an endpoint charged for it (nothing for a local model).

    `cut` says that the text was ended by the limit of tokens.
    """

    text: str
    usage: Usage = Usage()
    cut: bool = False


class Writer(Protocol):
    """A model that answers prompts: the policy itself, or a model behind an endpoint."""

    def write(self, prompts: Sequence[Prompt], *, max_tokens: int) -> list[Written]:
        """The most likely answer to each prompt, in order, of at most `max_tokens` tokens."""
        ...


class Chooser(Writer, Protocol):
    """A model that can also rate given answers by their probability: the policy itself."""

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """The probability of each option as the answer to each prompt; those of a prompt add up to 1."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One sequence for the inner loop: `text` carries the loss, `prompt` before it does not.

    Where `asked` is given, the sequence is a request as the policy reads it (an instruct model through its chat
    template), and `text` is the reply that is learnt, up to the end of the turn.

    A teacher reads `source`, for knowledge the request that was answered with the passage in it, and then the text
    without the `heading` that it begins with.
    """

    text: str
    prompt: str = ""
    asked: Prompt | None = None
    heading: str = field(default="", compare=False)
    source: Prompt | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Directives:
    """Training choices that a self-edit may carry; None keeps the inner loop's own setting.

    `layers` says which are trained, in the form of `seal_lightning.tasks.layer_choice`; `objective` what towards, by a
    short name of `seal_lightning.inner_loop.objectives`.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    schedule: Schedule | None = None
    layers: str | None = None
    objective: str | None = None


@dataclass(frozen=True, slots=True)
class SelfEdit:
    """A parsed self-edit; `reason` says why a self-edit cannot be trained on, and is empty for a usable one.

    `text`, on which the policy is trained, is without the model's thoughts; `thoughts` counts those cut out of it.
    `left_out` counts the pieces beyond the number that the task accepts.
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
    """One adapter to train: its sequences and seed, and the directives and rank that differ from the inner loop's."""

    training_sequences: tuple[TrainingSequence, ...]
    seed: int
    directives: Directives = Directives()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One self-edit and one repeat of its inner loop, with everything needed to score or replay it later.

    `status` is "rejected" where nothing could be trained on, "diverged" where the adapter came out not finite, or made
    logits that are not; `reason` says what. Such an adapter is thrown away, so the policy answers as before: `score` is
    the baseline's, without a reward.
    `kind` is "passage" where the adapter was trained on the passage alone, "written" where on a self-edit that the data
    carries: baselines that sample nothing.
    `baseline_answers`, `answers`, `questions` and `golds` are aligned by query. `scores` are in [0, 1]. `terms` are
    what the reward is made of, before weights; `retention` is the change of accuracy on other contexts' queries, where
    it was asked for. `dropped` says why a race gave the edit up, where it did: nothing keeps such an edit, and its
    score does not count.
    `edit_kind` is the name of the kind of self-edit that was asked for, where the task has several. `similarity` is the
    mean likeness of `text` to the other usable edits of its context (`seal_lightning.results.diversity`), 0 where there
    are none; None for what cannot be used, or was not written.
    `title` and `passage_digest` (`seal_lightning.results.pairing`) say which context it was, where
    it has them.

    One rule for costs and counts: each stands once, at the first rollout that it was spent for, so that sums over
    rollouts are totals. `steps` are the adapter's optimizer steps. `tokens` counts `prompt`, `edit`, `trained` (over
    all epochs), what a `teacher` read, `answers`, and what a race `saved`. `seconds` are wall-clock time by phase,
    `usage` what endpoints were asked for, by purpose (`Usage.as_dict`). `thoughts` counts texts: `edit` and `answers`
    are those that thoughts were cut out of, `unfinished` the answers that are empty, since they end within one.
    `left_out` counts what was cut, skipped or dropped. Two do not follow the rule, since the rollout of every repeat
    states them again: `prompt` and `edit` of `tokens` (sum them with `seal_lightning.results.usage.total_tokens`), and
    what `left_out` says of an edit (`seal_lightning.results.left_out.total_left_out`).
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
    edit_kind: str = ""
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """One self-edit with its repeats averaged: what a filter chooses from.

    `reward` is None for an edit that was rejected or dropped, or of which a repeat diverged.
    """

    context_id: str
    edit_index: int
    prompt: str
    text: str
    reward: float | None
    score: float
    gain: float
    repeats: int
    baseline: float = 0.0
    edit_kind: str = ""


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The outcomes of one context in one round, ordered by edit index."""

    context_id: str
    outcomes: tuple[EditOutcome, ...]
