"""What an adapter has learnt: its documents' queries asked closed-book before and after, and graded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.data.documents import Document
from seal_lightning.e_step import EStep
from seal_lightning.evaluation import bootstrap_interval
from seal_lightning.grading import Answer
from seal_lightning.inner_loop import TrainedBank
from seal_lightning.phases import Clock, Report
from seal_lightning.policy import Policy
from seal_lightning.sampling import PolicyWriter
from seal_lightning.scoring import own_queries


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to the queries of one document, with their scores in [0, 1]."""

    answers: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return fmean(self.scores)


Measured = Mapping[str, Answered]  # by document; those without queries are not in it


@dataclass(frozen=True, slots=True)
class Score:
    """Mean accuracy over documents, each of which counts alike, with its 95 % interval."""

    mean: float
    low: float
    high: float


def measure(
    e_step: EStep,
    policy: Policy,
    asked: Sequence[tuple[int | None, Document]],
    *,
    trained: TrainedBank | None = None,
    report: Report = lambda progress: None,
) -> list[Answered]:
    """Ask adapters (None: the policy itself) about documents, and grade the answers.

    Raises:
        RetryableError: The grader failed.
    """
    clock = Clock(report)
    queries = [own_queries(document.context) for _, document in asked]
    replies = e_step.ask(policy, queries, jobs=[job for job, _ in asked], trained=trained, clock=clock)
    answers = [
        Answer(query.question, query.golds, text)
        for mine, reply in zip(queries, replies, strict=True)
        for (_, query), text in zip(mine, reply.answers, strict=True)
    ]
    with clock.phase("grading", len(answers)) as advance:
        verdicts = iter(e_step.grader.verdicts(answers, policy=PolicyWriter(policy), on_done=advance))
    return [Answered(reply.answers, tuple(next(verdicts).score for _ in reply.answers)) for reply in replies]


def score_of(measured: Measured, documents: Sequence[str]) -> Score:
    """Over the documents of these ids, at least one."""
    means = [measured[name].accuracy for name in documents]
    return Score(fmean(means), *bootstrap_interval(means))
