"""The card of what a stream of `seal continual` ends with: one adapter that holds all of its updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.e_step.closed_book import Answered
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import name_of
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sharing.card import CardData, WeightsCard, base_of_source, render, result_of, titles_of
from seal_lightning.sharing.usage import query_usage
from seal_lightning.types import Context

LIMITS = """\
- The contexts were learnt one after another. What was learnt early may be partly forgotten; the accuracy counts that.
- It can be wrong, even about what it learnt."""


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
        policy: The policy that the stream began with.
        e_step: The E-step that asked and graded.
        contexts: The contexts in the order in which they were learnt.
        place: Path of the adapter from the folder of the run.
        before: Answers on each context before the first was learnt.
        after: Answers after the last was learnt.
        measure: The countermeasure.
        seed: The stream's seed.
    """
    base, queries = base_of_source(source), sum(len(context.queries) for context in contexts)
    card = WeightsCard(
        title=", ".join(Path(place).parts[-3:-1]),
        relation="adapter",
        base=base,
        made=f"A LoRA for `{base.name}` that has learnt {len(contexts)} contexts one after another.",
        command="continual",
        sections={"Learnt, in this order": titles_of(contexts, bullet="1.")},
        settings={"": e_step.inner_loop, "countermeasure": measure, "seed": seed},
        limits=LIMITS,
        licence="What it learnt comes from the contexts above, whose licence has to let you pass it on.",
        results=[
            result_of(when, [context.accuracy for context in answered], queries=queries, split="contexts")
            for when, answered in (("before", before), ("after", after))
        ],
        asked_of=CardData("the contexts"),
        grader=name_of(e_step.grader),
        usage=query_usage(policy, source, base, e_step, contexts[0], place=place, relation="adapter"),
    )
    return render(card)
