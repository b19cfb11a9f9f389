"""The card of an adapter of `seal adapt`, or of whole weights with it: what it learnt, how, and how well.

Titles come from the data and are escaped. Of paths of this machine nothing is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from seal_lightning import __version__
from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.scores import Score
from seal_lightning.e_step.step import EStep
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.results.left_out import MISSING, render_left_out
from seal_lightning.sharing import Asking, Card, Result, Source, licence_of, render, settings_table, usage
from seal_lightning.tasks import Knowledge
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.types import Query

SHOWN = 50  # documents by name
DOCUMENTS = Source("the documents")
CHOSEN = """\
The same queries may have chosen the self-edits, so that the accuracy after is somewhat too good."""
LIMITS = """\
- It answers about the documents above, closed-book: ask as the code does. What else it knew may have changed.
- It can be wrong, about the documents, too; the accuracy says how often it was."""
LICENCE = """\
The adapter changes its base model and is of no use without it: the base model's licence holds for both together. What
it learnt comes from the documents above, and it may give parts of them back word for word: make sure that their licence
lets you pass it on."""


def model_card(
    name: str,
    *,
    base: Origin,
    lessons: Sequence[Lesson],
    editor: str,
    policy_rank: int | None,
    chosen: bool,
    sequences: int,
    inner_loop: InnerLoop,
    stats: JobStats,
    missing: Mapping[str, int],
    scores: Mapping[str, Score],
    merged: bool,
    data_licence: str | None,
    seed: int = 0,
    grader: str = "",
    usage: str = "",
    unread: int = 0,
    without: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The text of a README.md.

    Args:
        name: Of the adapter.
        base: The base model.
        lessons: What it learnt.
        editor: Who wrote the self-edits.
        policy_rank: Of the policy that is part of the adapter, where that was more than the base.
        chosen: Whether rewards decided which self-edits were learnt.
        sequences: How many training sequences these are.
        inner_loop: How.
        stats: What its training came to.
        missing: What was cut or skipped in it, counted as `seal_lightning.results.left_out` does.
        scores: Mean accuracy by when; empty where nothing was asked.
        merged: Whether it lies beside whole weights instead of an adapter's.
        data_licence: Of the documents, as the user put it.
        seed: Of its training.
        grader: Who scored the answers.
        usage: Code, as `usage_of` gives it.
        unread: Files that were given too and could not be read.
        without: Parts of the model that no adapter acts on, by reason.
    """
    asked = [lesson.document.context for lesson in lessons if lesson.document.context.queries]
    queries = sum(len(context.queries) for context in asked)
    settings = {
        "": inner_loop,
        "optimizer steps": stats.steps,
        "tokens trained": stats.trained_tokens,
        "seed": seed,
        "seal-lightning": __version__,
    }
    card = Card(
        title=name,
        relation="merge" if merged else "adapter",
        base=base,
        made=f"{'Weights' if merged else 'A LoRA'} for `{base.name}`, made by `seal adapt` of seal-lightning "
        f"{__version__} (SEAL, arXiv:2506.10943).",
        results=[
            Result(when, score.mean, score.low, score.high, len(asked), queries, "documents")
            for when, score in scores.items()
        ],
        asked_of=DOCUMENTS,
        grader=grader,
        usage=usage,
        sections={
            "Learnt from": _learnt_from(lessons, editor, policy_rank, sequences, missing, unread, without),
            "Settings": settings_table(settings),
            "Limitations": LIMITS + (f"\n- {CHOSEN}" if scores and chosen else ""),
            "Licence": f"{licence_of(base)} {LICENCE}\n\nLicence of the documents: {data_licence or 'not stated'}.",
        },
    )
    return render(card)


def usage_of(
    policy: Policy, source: ModelSource, base: Origin, e_step: EStep, lesson: Lesson, *, place: str, merged: bool
) -> str:
    """Code that asks the first query of a document, or one of ours where it has none."""
    context = lesson.document.context
    query = context.queries[0] if context.queries else Query("What is it about?", ())
    if not context.queries and not isinstance(e_step.task, Knowledge):
        return ""
    asking = Asking(
        e_step.task.query_prompt(query, context),
        {"question": query.question.strip()},
        max_new_tokens=e_step.max_answer_tokens,
        first_line=isinstance(e_step.task, Knowledge),
        tokenizer_beside=merged,
    )
    return usage(policy, source, base, place=place, relation="merge" if merged else "adapter", asking=asking)


def _learnt_from(
    lessons: Sequence[Lesson],
    editor: str,
    policy_rank: int | None,
    sequences: int,
    missing: Mapping[str, int],
    unread: int,
    without: Mapping[str, Sequence[str]],
) -> str:
    titles = [markdown_cell(lesson.document.context.title or lesson.document.id, 100) for lesson in lessons]
    more = f"\n- and {len(titles) - SHOWN} more" if len(titles) > SHOWN else ""
    passages = sum(len(lesson.document.passages) for lesson in lessons)
    edits = sum(lesson.edits for lesson in lessons)
    written = f", {_count(edits, 'self-edit')} by {editor}" if edits else ""
    learnt = f"{_count(passages, 'passage')}{written}, {_count(sequences, 'training sequence')}."
    if unread:
        learnt += f"\n\nOf what was given, {_count(unread, 'file')} could not be read and taught it nothing."
    if missing:
        learnt += f"\n\n{MISSING} {render_left_out(missing)}."
    if without:
        found = [f"{_count(len(names), 'part')}, {why} (first: {names[0]})" for why, names in without.items()]
        learnt += f"\n\nNo adapter acts on {'; '.join(found)}."
    if policy_rank:
        learnt += (
            f"\n\nThe policy that wrote and was adapted (rank {policy_rank}) is part of it; before is its accuracy."
        )
    return "\n".join(f"- {title}" for title in titles[:SHOWN]) + more + f"\n\n{learnt}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
