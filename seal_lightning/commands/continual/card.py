"""The card of what a stream of `seal continual` ends with: one adapter that holds all of its updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from seal_lightning import __version__
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import name_of
from seal_lightning.models.loading import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.results.averages import interval
from seal_lightning.sharing import (
    Asking,
    Card,
    Result,
    Source,
    base_of_source,
    licence_of,
    render,
    settings_table,
    usage,
)
from seal_lightning.tasks import Knowledge
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.types import Context

SHOWN = 50  # contexts by name
LIMITS = """\
- The contexts were learnt one after another: what was learnt early may be forgotten in part; the accuracy counts it.
- It can be wrong, about what it learnt, too."""
LICENCE = "What it learnt comes from the contexts above, whose licence has to let you pass it on."


def stream_card(
    source: ModelSource,
    policy: Policy,
    e_step: EStep,
    contexts: Sequence[Context],
    *,
    place: str,
    before: Sequence[Answered],
    after: Sequence[Answered],
    measure: str,
    seed: int,
) -> str:
    """The text of a README.md.

    Args:
        source: The base model as it was loaded.
        policy: What the stream began with.
        e_step: Asks and grades.
        contexts: In the order in which they were learnt.
        place: Of the adapter, from the folder of the run.
        before: What was answered of each context before the first was learnt.
        after: The same after the last.
        measure: The countermeasure.
        seed: Of the stream.
    """
    base, first = base_of_source(source), contexts[0]
    asking = Asking(
        e_step.task.query_prompt(first.queries[0], first),
        {"question": first.queries[0].question.strip()},
        max_new_tokens=e_step.max_answer_tokens,
        first_line=isinstance(e_step.task, Knowledge),
    )
    titles = [f"1. {markdown_cell(context.title or context.id, 100)}" for context in contexts[:SHOWN]]
    more = f"\n\nand {len(contexts) - SHOWN} more" if len(contexts) > SHOWN else ""
    queries = sum(len(context.queries) for context in contexts)
    card = Card(
        title=", ".join(Path(place).parts[-3:-1]),
        relation="adapter",
        base=base,
        made=f"A LoRA for `{base.name}` that has learnt {len(contexts)} contexts one after another, made by `seal "
        f"continual` of seal-lightning {__version__} (SEAL, arXiv:2506.10943).",
        results=[_result(when, answered, queries) for when, answered in (("before", before), ("after", after))],
        asked_of=Source("the contexts"),
        grader=name_of(e_step.grader),
        usage=usage(policy, source, base, place=place, relation="adapter", asking=asking),
        sections={
            "Learnt, in this order": "\n".join(titles) + more,
            "Settings": settings_table(
                {"": e_step.inner_loop, "countermeasure": measure, "seed": seed, "seal-lightning": __version__}
            ),
            "Limitations": LIMITS,
            "Licence": f"{licence_of(base)} {LICENCE}",
        },
    )
    return render(card)


def _result(when: str, answered: Sequence[Answered], queries: int) -> Result:
    means = [one.accuracy for one in answered]
    return Result(when, fmean(means), *interval(means), len(means), queries, "contexts")
