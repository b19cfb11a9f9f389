"""The card of an adapter of `seal adapt`, or of whole weights with it merged: what it learnt, how, and how well.

Titles come from the data and are escaped. No path of this machine is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from seal_lightning.commands.adapt.jobs import ALL, OF_LORA, Adapter, AdapterAnswers, Answers, Workplace
from seal_lightning.commands.adapt.measuring import measures_what_chose, said_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.grading import name_of
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.layers import parts_without_adapter
from seal_lightning.results.left_out import MISSING, render_left_out
from seal_lightning.sampling import LocalSampler
from seal_lightning.sharing.card import OPEN, CardData, Relation, Result, WeightsCard, render, result_of, titles_of
from seal_lightning.sharing.usage import query_usage
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.tasks import Knowledge
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.text.plural import counted
from seal_lightning.types import Context, Query

LIMITS = """\
- It answers about the documents above, without seeing them: ask as the code does. What else it knew may have changed.
- It can be wrong, even about the documents; the accuracy says how often it was."""
CHOSEN = "- The queries that measured it had chosen its self-edits, too (`--held_out 0`): its accuracy flatters it."
LICENCE = """\
Without its base model the adapter is of no use, so the base model's licence holds for both together. What it learnt
comes from the documents above, and it may repeat parts of them word for word: make sure that their licence lets you
pass it on.

Licence of the documents: {licence}."""


def adapter_card(
    place: Workplace,
    adapter: Adapter,
    stats: JobStats,
    left_out: Mapping[str, int],
    measured: AdapterAnswers,
    *,
    merged: bool,
) -> str:
    """The text of a README.md.

    Args:
        place: What the adapter was made with.
        adapter: What was trained.
        stats: What its training came to.
        left_out: Counts of what was cut or skipped in it.
        measured: What the policy answers with it.
        merged: Whether the card is for whole weights instead of an adapter's.
    """
    relation: Relation = "finetune" if adapter.whole else "merge" if merged else "adapter"
    results = _results(place, adapter, measured)
    flattered = measures_what_chose([lesson.document for lesson in adapter.lessons if lesson.rewards])
    what = f"{'A LoRA for' if relation == 'adapter' else 'Weights for'} `{place.base.name}`"
    what = f"All weights of `{place.base.name}`, trained on" if adapter.whole else what
    card = WeightsCard(
        title=adapter.name,
        relation=relation,
        base=place.base,
        made=f"{what}." if adapter.inner_loop else f"{what}, written by a generator that has read the documents once.",
        command="adapt",
        sections={"Learnt from": _learnt_from(place, adapter, left_out)},
        settings=_settings(place, adapter, stats),
        limits="\n".join([LIMITS, *([CHOSEN] if results and flattered else [])]),
        licence=LICENCE.format(licence=place.data_licence or "not stated"),
        results=results,
        asked_of=CardData("the documents"),
        grader=name_of(place.e_step.grader),
        usage=_usage(place, adapter, relation),
    )
    return render(card)


def _results(place: Workplace, adapter: Adapter, measured: AdapterAnswers) -> list[Result]:
    """What was asked about its documents, and about other things."""
    asked = [lesson.document.context for lesson in adapter.lessons if lesson.document.id in measured.after]
    about = {"before": place.before, "after": measured.after, OPEN: place.open_book}
    others = place.unrelated_to(adapter) if measured.unrelated else []
    beside = {"before": place.unrelated.before, "after": measured.unrelated}
    kinds = (("documents", asked, about, None), ("unrelated", others, beside, CardData("unrelated questions")))
    return [
        replace(_result(when, contexts, answers, split), asked_of=asked_of)
        for split, contexts, kind, asked_of in kinds
        for when, answers in kind.items()
        if contexts and all(context.id in answers for context in contexts)
    ]


def _result(when: str, contexts: Sequence[Context], answers: Answers, split: str) -> Result:
    queries = sum(len(context.queries) for context in contexts)
    return result_of(when, [answers[context.id].accuracy for context in contexts], queries=queries, split=split)


def _settings(place: Workplace, adapter: Adapter, stats: JobStats) -> dict[str, object]:
    skill = {"skill vector": place.skill.name, "skill scale": place.skill.scale} if place.skill else {}
    if adapter.inner_loop is not None:
        trained: dict[str, object] = {
            "optimizer steps": stats.steps,
            "tokens trained": stats.trained_tokens,
            "seed": adapter.job.seed,
        }
        if adapter.whole:
            names = [field.name for field in fields(adapter.inner_loop) if field.name not in OF_LORA]
            return {name: getattr(adapter.inner_loop, name) for name in names} | trained
        return {"": adapter.inner_loop, **trained, **skill}
    assert isinstance(place.policy, GeneratingPolicy), "a generator has written it"
    generator = place.policy.network.settings
    rows = {f"generator: {name}": value for name, value in given_arguments(generator).items()}
    merging = {"merging": adapter.merging.way, "merging rank": adapter.merging.rank} if adapter.merging else {}
    return {"generator": type(generator).__name__, **rows, **merging, **skill}


def _usage(place: Workplace, adapter: Adapter, relation: Relation) -> str:
    """Code that asks the first query of the documents, or a query of ours where they have none."""
    contexts = [lesson.document.context for lesson in adapter.lessons]
    context = next((context for context in contexts if context.queries), contexts[0])
    if not context.queries:
        if not isinstance(place.e_step.task, Knowledge):
            return ""
        context = replace(context, queries=(Query("What is it about?", ()),))
    folder = place.merged_folder(adapter) if relation == "merge" else place.folder(adapter)
    return query_usage(
        place.policy,
        place.source,
        place.base,
        place.e_step,
        context,
        place=folder.relative_to(place.output).as_posix(),
        relation=relation,
        tokenizer_beside=relation != "adapter",
    )


def _learnt_from(place: Workplace, adapter: Adapter, left_out: Mapping[str, int]) -> str:
    lessons, sampler, learned = adapter.lessons, place.e_step.sampler, place.policy.learned()
    editor = "the model itself" if isinstance(sampler, LocalSampler) else type(sampler).__name__
    edits = sum(lesson.edits for lesson in lessons)
    parts = [
        counted(sum(len(lesson.document.passages) for lesson in lessons), "passage"),
        *([f"{counted(edits, 'self-edit')} by {editor}"] if edits else []),
        counted(len(adapter.job.training_sequences), "training sequence"),
    ]
    if adapter.inner_loop is None:
        parts = [counted(len(lessons), "document")]
    paragraphs = [titles_of([lesson.document.context for lesson in lessons], bullet="-"), f"{', '.join(parts)}."]
    if place.unread and adapter.name == ALL:
        paragraphs.append(f"Besides, {counted(place.unread, 'file')} could not be read and taught it nothing.")
    if queries := said_of([lesson.document for lesson in lessons]):
        paragraphs.append(f"Asked: {queries}.")
    if left_out:
        paragraphs.append(f"{MISSING} {render_left_out(left_out)}.")
    if place.skill:
        paragraphs.append(f"After its training, {markdown_cell(place.skill.said, 200)} was added to it.")
    if not adapter.whole and (without := parts_without_adapter(place.policy.model)):
        listed = [f"{counted(len(names), 'part')}, {why} (first: {names[0]})" for why, names in without.items()]
        paragraphs.append(f"No adapter acts on {'; '.join(listed)}.")
    if learned:
        paragraphs.append(
            f"It includes the trained policy (rank {learned.rank}) that wrote the self-edits and was adapted; the "
            "accuracy before is that policy's."
        )
    return "\n\n".join(paragraphs)
