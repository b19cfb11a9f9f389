"""Queries asked closed-book and graded outside a unit of work: what a policy or its adapters know at some moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from seal_lightning.e_step.carriers import queries_of
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Answer, checked
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock, Report
from seal_lightning.sampling import PolicyWriter
from seal_lightning.types import Context


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to a context's queries, the score of each answer in [0, 1], and how many lost their end."""

    answers: tuple[str, ...]
    scores: tuple[float, ...]
    cut: int = 0

    @property
    def accuracy(self) -> float:
        return fmean(self.scores)

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> Answered:
        """The reverse of `asdict`; other keys are ignored.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        answers, scores, cut = row["answers"], row["scores"], row.get("cut", 0)
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("answers that are no texts")
        if not isinstance(scores, list) or not all(_is_share(score) for score in scores):
            raise ValueError("scores that are not from 0 to 1")
        if len(answers) != len(scores):
            raise ValueError(f"{len(scores)} scores for {len(answers)} answers")
        if isinstance(cut, bool) or not isinstance(cut, int):
            raise ValueError(f"{cut!r} answers that were cut")
        return Answered(tuple(answers), tuple(scores), cut)


def _is_share(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1


def ask_closed_book(
    e_step: EStep,
    policy: Policy,
    contexts: Sequence[Context],
    *,
    jobs: Sequence[int | None] | None = None,
    trained: TrainedBank | None = None,
    report: Report = lambda progress: None,
    on_diverged: Callable[[int], None] = lambda place: None,
) -> list[Answered]:
    """Ask the queries of every context, and grade the answers.

    Args:
        e_step: Its task, answerer and grader do it.
        policy: Frozen and in evaluation mode.
        contexts: What is asked about.
        jobs: Which adapter answers on each context, jobs of `trained`; without them the policy itself does.
        trained: The bank that holds the adapters.
        report: Told about progress.
        on_diverged: Told of the contexts, by place, whose adapter made logits that are not finite.

    Raises:
        RetryableError: The grader or an endpoint failed.
    """
    clock = Clock(report)
    queries = [queries_of(context) for context in contexts]
    replies = e_step.ask(policy, queries, jobs=jobs, trained=trained, clock=clock)
    for place, one in enumerate(replies):
        if not one.finite:
            on_diverged(place)
    answers = [
        Answer(query.question, query.golds, text)
        for mine, one in zip(queries, replies, strict=True)
        for (_, query), text in zip(mine, one.answers, strict=True)
    ]
    with clock.phase("grading", len(answers)) as advance:
        given = iter(
            checked(e_step.grader, e_step.grader.verdicts(answers, policy=PolicyWriter(policy), on_done=advance))
        )
    return [Answered(one.answers, tuple(next(given).score for _ in one.answers), one.cut) for one in replies]
