"""The card of what a stream of `seal continual` ends with: one adapter that holds all of its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.commands.continual.steps import StreamStep
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
    steps: Sequence[StreamStep],
    settings: Mapping[str, object],
) -> str:
    """The text of a README.md.

    Args:
        source: The base model as it was loaded.
        policy: The policy that the stream began with.
        e_step: The E-step that asked and graded.
        contexts: The contexts in the order in which they were learnt.
        place: Path of the adapter from the folder of the run.
        steps: What was answered before the first was learnt, and after each.
        settings: The settings of the stream besides those of the training.
    """
    base, queries = base_of_source(source), sum(len(context.queries) for context in contexts)
    card = WeightsCard(
        title=", ".join(Path(place).parts[-3:-1]),
        relation="adapter",
        base=base,
        made=f"A LoRA for `{base.name}` that has learnt {len(contexts)} contexts one after another.",
        command="continual",
        sections={"Learnt, in this order": titles_of(contexts, bullet="1.")},
        settings={"": e_step.inner_loop, **settings},
        limits=LIMITS,
        licence="What it learnt comes from the contexts above, whose licence has to let you pass it on.",
        results=[
            result_of(when, [context.accuracy for context in step.answered], queries=queries, split="contexts")
            for when, step in (("before", steps[0]), ("after", steps[-1]))
        ],
        asked_of=CardData("the contexts"),
        grader=name_of(e_step.grader),
        usage=query_usage(policy, source, base, e_step, contexts[0], place=place, relation="adapter"),
    )
    return render(card)
