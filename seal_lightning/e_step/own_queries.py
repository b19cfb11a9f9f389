"""Unsupervised mode: a model writes the queries of the training contexts, from the passages alone.

No human question and no gold answer is needed then; those of the validation data still measure what was learnt. What a
model writes is filtered: a query has to be a question with a short answer out of the passage, understandable without
it, unlike the others, and answered alike by a model that sees the passage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product

from seal_lightning.e_step.carriers import Attempt, Grades, Tried, UnitRun
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.step import EStep
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.grading import Answer, Grader, checked, new_content_recall
from seal_lightning.grading.scripts import asks, count_words
from seal_lightning.grading.words import content_words, words
from seal_lightning.results.left_out import QUERIES, added
from seal_lightning.results.usage import share_seconds
from seal_lightning.sampling import PolicyWriter
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.tasks import EditKind
from seal_lightning.tasks.base import first_line
from seal_lightning.tasks.edit_kinds import questions, resolve_kind
from seal_lightning.text.thoughts import UNFINISHED, cut_thoughts
from seal_lightning.types import Chooser, Context, Prompt, Query, Rollout, SelfEdit, Usage, Written

_PAIR = re.compile(r"Question: (.*?)\nAnswer: (.*)", re.DOTALL)
_POINTS_AT_PASSAGE = re.compile(
    r"\b(passage|text|article|paragraph|author|above|mentioned|described"
    r"|Textstelle|Abschnitt|Absatz|Autorin?|oben|texte|auteur|texto|autora?|párrafo"
    r"|текст[а-я]{0,2}|отрыв\w+|абзац\w*|автор[а-я]{0,2}|النص|المقال|الفقرة|הטקסט|הקטע|המאמר)\b"
    r"|本文|文中|上文|短文|段落|文章|作者|筆者|著者|上記|본문|지문|글쓴이|บทความ|ข้อความข้างต้น|ผู้เขียน",
    re.I,
)
MOST = 200  # pairs of a text that are considered: each is compared with all that were kept before it
NO_OWN_QUERY = "no own query passed the filters"
OTHERWISE = "answered otherwise with the passage in view"
CUT = "cut at query_writer.max_tokens"


@dataclass(frozen=True, slots=True)
class WrittenQueries:
    """Queries that a model wrote for a context and that passed the filters; `dropped` counts the others by reason."""

    queries: tuple[Query, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = Usage()


class QueryWriter(Remembers):
    """Writes queries with gold answers from a passage.

    Args:
        endpoint: The model that writes them; null takes the policy itself.
        edit: The request: a kind of self-edit whose parser is `questions`.
        count: Queries a context, at most; the first ones that pass.
        max_tokens: Longest text with all queries of a context.
        max_answer_words: Longest gold answer; in a script without blanks between words, two characters count as one.
        similarity: Share of content words from which on a query repeats an earlier one, and is dropped.
        check: Whether to ask the model its own queries with the passage in view, and to drop those that it then answers
            otherwise.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint | None = None,
        edit: str | EditKind = "self-qa",
        count: int = 5,
        max_tokens: int = 512,
        max_answer_words: int = 12,
        similarity: float = 0.7,
        check: bool = True,
    ) -> None:
        if not 0 < similarity <= 1:
            raise ConfigError(f"similarity must be above 0 and at most 1, got {similarity}: try 0.7")
        self.kind = resolve_kind(edit)
        if self.kind.parser != "questions":
            raise ConfigError(f"edit must be a kind that is read as questions, got parser {self.kind.parser!r}")
        self.endpoint = endpoint
        self.count = check_count("count", count)
        self.max_tokens = check_count("max_tokens", max_tokens)
        self.max_answer_words = check_count("max_answer_words", max_answer_words)
        self.similarity = similarity
        self.check = check

    def write(
        self,
        contexts: Sequence[Context],
        *,
        policy: Chooser,
        grader: Grader,
        on_wait: Callable[[], None] = lambda: None,
    ) -> list[WrittenQueries]:
        """Queries for each context, in order; none if nothing that was written can be used.

        Args:
            contexts: The contexts; queries of theirs are not looked at.
            policy: The model that writes if there is no endpoint.
            grader: The grader that compares answers given with the passage in view with the gold answers.
            on_wait: Called from time to time while an endpoint is waited for; may raise to end the wait.
        """
        prompts = [self.kind.prompt(context) for context in contexts]
        texts = self._written(prompts, self.max_tokens, policy, on_wait)
        made = []
        for text, context in zip(texts, contexts, strict=True):
            kept, dropped = self._filtered(text.text, context)
            made.append(WrittenQueries(tuple(kept), {**dropped, CUT: 1} if text.cut else dropped, text.usage))
        if self.check:
            made = self._checked(made, contexts, policy, grader, on_wait)
        return list(map(self._first, made))

    def _first(self, made: WrittenQueries) -> WrittenQueries:
        if (more := len(made.queries) - self.count) <= 0:
            return made
        return replace(
            made, queries=made.queries[: self.count], dropped={**made.dropped, f"beyond the first {self.count}": more}
        )

    def _written(
        self, prompts: Sequence[Prompt], max_tokens: int, policy: Chooser, on_wait: Callable[[], None]
    ) -> list[Written]:
        if self.endpoint is None:
            return policy.write(prompts, max_tokens=max_tokens)
        return self.endpoint.write(prompts, max_tokens=max_tokens, on_done=lambda count: on_wait())

    def _filtered(self, text: str, context: Context) -> tuple[list[Query], dict[str, int]]:
        kept: list[Query] = []
        dropped: dict[str, int] = {}
        said = cut_thoughts(text)
        if said.unfinished:
            return [], {UNFINISHED: 1}
        pairs = questions(said.text)
        if len(pairs) > MOST:
            dropped[f"beyond the first {MOST} that were written"] = len(pairs) - MOST
        for pair in pairs[:MOST]:
            match = _PAIR.fullmatch(pair)
            assert match is not None, "the parser writes pairs alike"
            question, gold = (" ".join(part.split()) for part in match.groups())
            if reason := self._fault(question, gold, context.passage, kept):
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                kept.append(Query(question, (gold,)))
        return kept, dropped

    def _fault(self, question: str, gold: str, passage: str, kept: Sequence[Query]) -> str:
        """Why a query cannot be used; empty where it can."""
        if not asks(question) or _POINTS_AT_PASSAGE.search(question):
            return "no question of its own"
        if not words(gold) or count_words(gold) > self.max_answer_words:
            return "answer too long"
        if new_content_recall(question="", gold=gold, answer=question) == 1:
            return "answer in the question"
        if new_content_recall(question=question, gold=gold, answer=passage) < 1:
            return "answer not in the passage"
        own = content_words(question)
        for other in kept:
            theirs = content_words(other.question)
            if len(own & theirs) >= self.similarity * max(1, len(own | theirs)):
                return "repeats another"
        return ""

    def _checked(
        self,
        made: Sequence[WrittenQueries],
        contexts: Sequence[Context],
        policy: Chooser,
        grader: Grader,
        on_wait: Callable[[], None],
    ) -> list[WrittenQueries]:
        """Without the queries that the model answers otherwise when it sees the passage."""
        asked = [(context, query) for context, own in zip(contexts, made, strict=True) for query in own.queries]
        if not asked:
            return list(made)
        replies = self._written([_open_book(query, context) for context, query in asked], 64, policy, on_wait)
        answers = [
            Answer(query.question, query.golds, first_line(cut_thoughts(reply.text).text))
            for (_, query), reply in zip(asked, replies, strict=True)
        ]
        verdicts = checked(grader, grader.verdicts(answers, policy=policy, on_done=lambda count: on_wait()))
        given = zip(replies, verdicts, strict=True)
        right_ones = []
        for written in made:
            marked = [(query, *next(given)) for query in written.queries]
            right = tuple(query for query, _, verdict in marked if verdict.score >= 0.5)
            usage = sum((reply.usage + verdict.usage for _, reply, verdict in marked), written.usage)
            wrong = {OTHERWISE: len(marked) - len(right)} if len(right) < len(marked) else {}
            right_ones.append(WrittenQueries(right, {**written.dropped, **wrong}, usage))
        return right_ones


def _open_book(query: Query, context: Context) -> Prompt:
    return Prompt(
        system="Answer the question from the passage in a few words.",
        user=f"Title: {context.title.strip()}\nPassage: {context.passage.strip()}\n\nQuestion: {query.question}",
        lead="\nAnswer:",
    )


@dataclass(frozen=True)
class OwnQueryStep(EStep):
    """An E-step on queries that a model writes from the passages, in place of those of the data.

    Attributes:
        query_writer: Writes them.
    """

    query_writer: QueryWriter = field(default_factory=QueryWriter)

    def roll_out(self, unit: UnitRun) -> list[Rollout]:
        """Write queries, and roll out those contexts of which any passed the filters; the others' edits are rejected.

        Nothing is written about those others: no query could score it.
        """
        policy, contexts, report = unit.policy, unit.contexts, unit.clock.report
        with unit.clock.phase("questions", len(contexts)) as advance:
            written = self.query_writer.write(
                contexts, policy=PolicyWriter(policy), grader=self.grader, on_wait=lambda: advance(0)
            )
            advance(len(contexts))
        queries = iter([own.queries for own in written])
        asked = [[replace(context, queries=next(queries)) for context in each] for each in unit.units]
        unasked = [attempt for context in chain(*asked) if not context.queries for attempt in self._unasked(context)]
        rollouts = rollouts_of(unit, Tried(unasked, [None] * len(unasked)), [Grades()] * len(unasked), self.reward)
        able = [[context for context in each if context.queries] for each in asked]
        if any(able):
            rollouts += super().roll_out(self.begin(policy, able, unit.round, report))
        told: list[Rollout] = []
        for context, own in zip(contexts, written, strict=True):
            first, *others = [rollout for rollout in rollouts if rollout.context_id == context.id]
            told += [_with_writing(first, own), *others]
        return share_seconds(told, unit.clock.seconds)

    def _unasked(self, context: Context) -> list[Attempt]:
        """The attempts on a context of which no query is left."""
        edit, repeats = SelfEdit(text="", reason=NO_OWN_QUERY), 1 if self.plan.racing else self.plan.repeats
        numbers = product(range(self.plan.edits), range(repeats))
        return [Attempt(context, "edit", index, repeat, 0, "", edit) for index, repeat in numbers]


def _with_writing(rollout: Rollout, own: WrittenQueries) -> Rollout:
    """The rollout with what writing its context's queries cost, and how many of them were dropped."""
    usage = {"questions": own.usage.as_dict()} if own.usage.as_dict() else {}
    dropped = {f"{QUERIES}{reason}": count for reason, count in own.dropped.items()}
    return replace(rollout, usage={**rollout.usage, **usage}, left_out=added([dropped, rollout.left_out]))
