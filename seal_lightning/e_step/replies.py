"""Queries asked closed-book, of the policy or of adapters, and what was replied (arXiv 2506.10943, section 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, islice

from seal_lightning.e_step.carriers import Queries, Replies
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock
from seal_lightning.sampling import Answerer, Answers, Asked
from seal_lightning.tasks import Task
from seal_lightning.text.thoughts import cut_thoughts
from seal_lightning.types import Prompt

log = logging.getLogger(__name__)

Ways = Sequence[Sequence[Prompt]]  # by query, every way in which it is asked


def ask_queries(
    task: Task,
    answerer: Answerer,
    policy: Policy,
    queries: Sequence[Queries],
    *,
    jobs: Sequence[int | None] | None,
    trained: TrainedBank | None,
    max_answer_tokens: int,
    clock: Clock,
    phase: str,
) -> list[Replies]:
    """The replies to each of `queries`, in order; see `EStep.ask`."""
    ways = [[task.query_prompts(query, context) for context, query in some] for some in queries]
    asked = [Asked(job, tuple(chain(*prompts))) for job, prompts in zip(jobs or [None] * len(ways), ways, strict=True)]
    with clock.phase(phase, sum(len(one.prompts) for one in asked)) as advance:
        answers = answerer.answer(policy, asked, trained, max_new_tokens=max_answer_tokens, on_done=advance)
    replies = [_replies(task, *parts) for parts in zip(queries, ways, answers, strict=True)]
    _tell_thoughts(replies, texts=sum(len(given.texts) for given in answers))
    return replies


def _replies(task: Task, queries: Queries, ways: Ways, answers: Answers) -> Replies:
    """One answer to each query, without the thoughts before it."""
    said = [cut_thoughts(text) for text in answers.texts]
    texts = iter([one.text for one in said])
    read = tuple(
        task.read_answers(list(islice(texts, len(prompts))), query, context)
        for prompts, (context, query) in zip(ways, queries, strict=True)
    )
    return Replies(
        read,
        answers.tokens,
        cut=_count_cut(read, ways, answers),
        thoughts=sum(one.thoughts > 0 for one in said),
        unfinished=sum(one.unfinished for one in said),
        finite=answers.finite,
    )


def _count_cut(read: Sequence[str], ways: Ways, answers: Answers) -> int:
    """How many answers lost their end: those that reach to where a text was cut, in one of the ways to ask.

    A model that goes on writing after its answer is cut too, but the answer is whole.
    """
    texts = iter(zip(answers.texts, answers.cut, strict=True)) if answers.cut else iter(())
    count = 0
    for answer, prompts in zip(read, ways, strict=True):
        given = list(islice(texts, len(prompts)))
        count += any([cut and text.rstrip().endswith(answer.rstrip()) for text, cut in given])
    return count


def _tell_thoughts(replies: Sequence[Replies], *, texts: int) -> None:
    unfinished = sum(reply.unfinished for reply in replies)
    if unfinished:
        log.warning(
            "%d of %d answers are empty because they end within a thought: raise model.max_answer_tokens, or switch "
            "thinking off (model.source.template_args)",
            unfinished,
            texts,
        )
    if thoughts := sum(reply.thoughts for reply in replies) - unfinished:
        log.info("thoughts were removed from %d of %d answers", thoughts, texts)
