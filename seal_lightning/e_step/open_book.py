"""Queries asked with the document in view: the ceiling that a policy's adapters are compared with.

    document -> whole if it fits into the window, else its best fitting pieces -> in front of the query -> answers

The question is asked in the words of the closed book, so that the document is the only difference. Nobody looks at the
gold answers to choose pieces. Left out: retrieval across documents, since the query's own document is known here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.data.splitting import split
from seal_lightning.e_step.carriers import queries_of
from seal_lightning.e_step.closed_book import Answered, graded
from seal_lightning.e_step.step import EStep
from seal_lightning.grading.words import content_words
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock, Report, silent
from seal_lightning.tasks import Task
from seal_lightning.types import Context, Prompt, Query

PIECE = 800  # characters of a piece of a document that does not fit as a whole


def open_book_prompt(task: Task, query: Query, context: Context) -> Prompt:
    """The prompt of the closed book with the passage, under its title, before the question.

    A task that asks with the context in its prompt anyway has nothing to add to that.
    """
    return _with_passage(task, task.query_prompt(query, context), context)


def ask_open_book(
    e_step: EStep, policy: Policy, contexts: Sequence[Context], *, report: Report = silent
) -> list[Answered]:
    """Ask the queries of every context with its passage in view, and grade the answers.

    Args:
        e_step: The E-step whose task, answerer and grader are used.
        policy: The policy, frozen and in evaluation mode.
        contexts: The contexts to ask about, of any length.
        report: Told about progress.

    Returns:
        The answers to each context; `in_part` counts those given with a part of the passage in view.

    Raises:
        RetryableError: The grader or an endpoint failed.
    """
    clock, task = Clock(report), e_step.task
    queries = [queries_of(context) for context in contexts]
    room = e_step.answerer.window(policy) - e_step.max_answer_tokens
    shown = [
        [(fitting_passage(task, policy, query, context, room=room), query) for context, query in some]
        for some in queries
    ]
    replies = e_step.ask(
        policy, shown, prompts=lambda query, context: _prompts(task, query, context), clock=clock, phase="open book"
    )
    answered = graded(e_step, policy, queries, replies, clock=clock)
    return [
        replace(one, in_part=sum(part is not context for part, _ in some))
        for one, some, context in zip(answered, shown, contexts, strict=True)
    ]


def fitting_passage(task: Task, policy: Policy, query: Query, context: Context, *, room: int) -> Context:
    """The context itself if its open-book prompts fit, else with the pieces of its passage that do.

    Pieces are taken by the words that they share with the question, rare ones counting more, as long as they fit; they
    keep their order in the document. The passage is empty where not a single piece fits.

    Args:
        task: Asks the query.
        policy: Tokenizes.
        query: The question; its golds are not looked at.
        context: The document.
        room: Most tokens of a prompt.
    """

    def fits(some: Context) -> bool:
        return all(len(policy.encode(policy.format(prompt))) <= room for prompt in _prompts(task, query, some))

    if fits(context):
        return context
    pieces = split(context.passage, PIECE)
    taken: list[int] = []
    for number in _by_likeness(query.question, pieces):
        some = sorted([*taken, number])
        if fits(replace(context, passage=_joined(pieces, some))):
            taken = some
    return replace(context, passage=_joined(pieces, taken))


def _prompts(task: Task, query: Query, context: Context) -> tuple[Prompt, ...]:
    """Every way in which a query is asked, with the passage before each."""
    return tuple(_with_passage(task, prompt, context) for prompt in task.query_prompts(query, context))


def _with_passage(task: Task, prompt: Prompt, context: Context) -> Prompt:
    passage, title = context.passage.strip(), context.title.strip()
    if task.asks_with_context or not passage:
        return prompt
    return replace(prompt, user="\n\n".join([f"{title}\n{passage}" if title else passage, prompt.user]))


def _joined(pieces: Sequence[str], numbers: Sequence[int]) -> str:
    return "\n\n".join(pieces[number] for number in numbers)


def _by_likeness(question: str, pieces: Sequence[str]) -> list[int]:
    """The numbers of the pieces, most alike to the question first; of equals the earlier one."""
    words = [content_words(piece) for piece in pieces]
    spread = Counter(word for some in words for word in some)
    asked = content_words(question)
    likeness = [math.fsum(math.log(1 + len(pieces) / spread[word]) for word in asked & some) for some in words]
    return sorted(range(len(pieces)), key=lambda number: (-likeness[number], number))
