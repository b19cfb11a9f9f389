"""Queries asked closed-book and graded outside a unit of work: what a policy or its adapters know at some moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import TypeGuard

from seal_lightning.e_step.carriers import Queries, Replies, queries_of
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Answer, checked
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock, Report, silent
from seal_lightning.sampling import PolicyWriter
from seal_lightning.types import Context, JsonObject


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to a context's queries.

    Attributes:
        answers: One to each query.
        scores: Their scores in [0, 1].
        cut: How many were cut at the limit of tokens.
        in_part: How many were given with a part of the document in view, since the whole does not fit into the window.
    """

    answers: tuple[str, ...]
    scores: tuple[float, ...]
    cut: int = 0
    in_part: int = 0

    @property
    def accuracy(self) -> float:
        return fmean(self.scores)

    @staticmethod
    def from_dict(row: JsonObject) -> Answered:
        """The reverse of `asdict`; other keys are ignored.

        Raises:
            KeyError, TypeError, ValueError: The row does not hold answers and scores.
        """
        given, marks = row["answers"], row["scores"]
        if not isinstance(given, list) or not isinstance(marks, list) or len(given) != len(marks):
            raise ValueError("answers and scores must be lists of one length")
        answers = tuple(answer for answer in given if isinstance(answer, str))
        scores = tuple(float(mark) for mark in marks if _is_share(mark))
        if len(answers) != len(given) or len(scores) != len(marks):
            raise ValueError("answers must be texts, and scores must be from 0 to 1")
        return Answered(answers, scores, _count(row, "cut"), _count(row, "in_part"))


def _count(row: JsonObject, name: str) -> int:
    count = row.get(name, 0)
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{name} counts answers and must be whole, got {count!r}")
    return count


def _is_share(score: object) -> TypeGuard[float]:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1


def ask_closed_book(
    e_step: EStep,
    policy: Policy,
    contexts: Sequence[Context],
    *,
    jobs: Sequence[int | None] | None = None,
    trained: TrainedBank | None = None,
    report: Report = silent,
    on_diverged: Callable[[int], None] = lambda place: None,
) -> list[Answered]:
    """Ask the queries of every context, and grade the answers.

    Args:
        e_step: The E-step whose task, answerer and grader are used.
        policy: The policy, frozen and in evaluation mode.
        contexts: The contexts to ask about.
        jobs: The adapter that answers on each context, as jobs of `trained`; without them the policy itself does.
        trained: The bank that holds the adapters.
        report: Told about progress.
        on_diverged: Told the place of each context whose adapter made logits that are not finite.

    Raises:
        RetryableError: The grader or an endpoint failed.
    """
    clock = Clock(report)
    queries = [queries_of(context) for context in contexts]
    replies = e_step.ask(policy, queries, jobs=jobs, trained=trained, clock=clock)
    for place, given in enumerate(replies):
        if not given.finite:
            on_diverged(place)
    return graded(e_step, policy, queries, replies, clock=clock)


def graded(
    e_step: EStep, policy: Policy, queries: Sequence[Queries], replies: Sequence[Replies], *, clock: Clock
) -> list[Answered]:
    """The replies to some queries of each of several contexts, with their scores.

    Raises:
        RetryableError: The grader or an endpoint failed.
    """
    answers = [
        Answer(query.question, query.golds, text)
        for asked, given in zip(queries, replies, strict=True)
        for (_, query), text in zip(asked, given.answers, strict=True)
    ]
    with clock.phase("grading", len(answers)) as advance:
        verdicts = e_step.grader.verdicts(answers, policy=PolicyWriter(policy), on_done=advance)
        scores = iter([verdict.score for verdict in checked(e_step.grader, verdicts)])
    return [Answered(given.answers, tuple(islice(scores, len(given.answers))), given.cut) for given in replies]
