"""The folders of the adapters: complete or not there at all, and read again by a run that resumes.

`adapters/NAME` is a PEFT folder with a card, `prompt.json` (how to ask it), and `adaptation.json`: settings, answers,
and digests of the weights. `merged/NAME`, if wanted, has the whole weights; `weights/NAME` those that were all trained,
with the same files.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict

from seal_lightning.commands.adapt.baseline import asked_stamp
from seal_lightning.commands.adapt.card import adapter_card
from seal_lightning.commands.adapt.jobs import Adapter, AdapterAnswers, Answers, Workplace
from seal_lightning.commands.adapt.skill import compared
from seal_lightning.commands.adapt.unrelated import together
from seal_lightning.commands.adapt.verdict import TrainingFacts, count_edits, judge
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.errors import ConfigError, ModelError, misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import KEY, damage, digests_of, read_record, recorded_in
from seal_lightning.files.saving import save_text, whole
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.layers import parts_without_adapter
from seal_lightning.models.lora import LoRA, save_lora, save_whole, stack, whole_state
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.origins import CARD
from seal_lightning.results.left_out import ANSWERS, LONGEST, SKIPPED, TRUNCATED, added
from seal_lightning.sharing.prompts import prompt_file
from seal_lightning.text.placeholders import PROMPT
from seal_lightning.types import Context, JsonObject

log = logging.getLogger(__name__)

RESULT = "adaptation.json"
OPEN_BOOK = "open_book"  # the answers without an adapter and with the document in view
UNRELATED = "unrelated"  # the answers to questions about other things
ALONE = "alone"  # the answers of an adapter before a skill vector was added to it


# -- writing -----------------------------------------------------------------------------------------------------------


def write(
    place: Workplace,
    adapter: Adapter,
    lora: LoRA,
    stats: JobStats,
    measured: AdapterAnswers,
    losses: tuple[float, float] | None,
) -> None:
    """Write the folder of an adapter, with the digests of its weights.

    Args:
        place: Where, and what the adapter was made with.
        adapter: What was trained.
        lora: What came out.
        stats: What its training came to.
        measured: What the policy answers with it.
        losses: Mean loss of a token of the training text, before and after; None where it was not measured.
    """
    facts = facts_of(place, adapter, stats, measured.after, losses)
    left_out, result = facts.left_out, _result(place, adapter, stats, facts, measured)
    with redirect_stdout(sys.stderr):  # libraries print while they save
        if place.merged:
            with whole(place.merged_folder(adapter)) as folder:
                save_whole(place.policy.model, folder, whole_state(place.policy.model, lora))
                place.policy.tokenizer.save_pretrained(folder)
                save_text(folder / CARD, adapter_card(place, adapter, stats, left_out, measured, merged=True))
                save_text(folder / PROMPT, _prompt(place, adapter))
                save_text(folder / RESULT, json.dumps({KEY: digests_of(folder)}, indent=1) + "\n")
        with whole(place.folder(adapter)) as folder:  # last, since it says that everything is there
            learned = place.policy.learned()
            save_lora(stack([learned, lora]) if learned else lora, folder, model=place.policy.model)
            save_text(folder / CARD, adapter_card(place, adapter, stats, left_out, measured, merged=False))
            save_text(folder / PROMPT, _prompt(place, adapter))
            result[KEY] = dict(digests_of(folder))
            save_text(folder / RESULT, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def write_whole(
    place: Workplace, adapter: Adapter, stats: JobStats, measured: AdapterAnswers, facts: TrainingFacts
) -> None:
    """Write the folder of a model whose weights were all trained, which the policy's now are."""
    result = _result(place, adapter, stats, facts, measured)
    with redirect_stdout(sys.stderr), whole(place.folder(adapter)) as folder:
        save_whole(place.policy.model, folder, whole_state(place.policy.model))
        place.policy.tokenizer.save_pretrained(folder)
        save_text(folder / CARD, adapter_card(place, adapter, stats, facts.left_out, measured, merged=False))
        save_text(folder / PROMPT, _prompt(place, adapter))
        result[KEY] = dict(digests_of(folder))
        save_text(folder / RESULT, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def _prompt(place: Workplace, adapter: Adapter) -> str:
    contexts = [lesson.document.context for lesson in adapter.lessons]
    return prompt_file(place.policy, place.base, place.e_step, contexts)


def facts_of(
    place: Workplace, adapter: Adapter, stats: JobStats, after: Answers, losses: tuple[float, float] | None
) -> TrainingFacts:
    """What a training came to; `losses` are a token's of the training text, before and after."""
    longest = adapter.measure.longest(place.policy, adapter.job) if stats.truncated else 0
    answers = sum(answered.cut for answered in after.values())
    left_out = added([{TRUNCATED: stats.truncated, SKIPPED: stats.skipped, LONGEST: longest, ANSWERS: answers}])
    return TrainingFacts(stats.steps, *(losses or (None, None)), adapter.option, left_out)


def _result(
    place: Workplace, adapter: Adapter, stats: JobStats, facts: TrainingFacts, measured: AdapterAnswers
) -> JsonObject:
    """The content of `adaptation.json` but for the digests."""
    skill, after = place.skill, measured.after
    note = compared(skill, [measured.alone], after) if skill else ""
    return {
        "policy": place.stamp,
        "stamp": adapter.stamp,
        "asked": asked_of(place, adapter),
        "steps": stats.steps,
        "trained_tokens": stats.trained_tokens,
        "left_out": dict(facts.left_out),
        "without_adapter": {} if adapter.whole else _without(place),
        "loss": None if math.isnan(stats.loss) else stats.loss,
        "own_text": {} if facts.before is None else {"before": facts.before, "after": facts.after},  # a token's loss
        "files_left_out": place.unread,
        "measured": [
            {
                "document": document.id,
                "title": document.context.title,
                **_asked([document.context]),
                "chose": len(document.choosing),
                "before": asdict(place.before[document.id]),
                **asdict(after[document.id]),
                **({OPEN_BOOK: asdict(place.open_book[document.id])} if document.id in place.open_book else {}),
                **({ALONE: asdict(measured.alone[document.id])} if document.id in measured.alone else {}),
            }
            for document in (lesson.document for lesson in adapter.lessons)
            if document.id in after
        ],
        UNRELATED: _unrelated(place, adapter, measured),
        "learnt": asdict(judge(place.before, after, facts, count_edits(adapter.lessons)).noting(note)),
        **({"skill": {"run": skill.name, "scale": skill.scale}} if skill else {}),
    }


def _asked(contexts: Sequence[Context]) -> JsonObject:
    queries = [query for context in contexts for query in context.queries]
    return {"questions": [query.question for query in queries], "golds": [list(query.golds) for query in queries]}


def _unrelated(place: Workplace, adapter: Adapter, measured: AdapterAnswers) -> JsonObject:
    """The unrelated questions that an adapter was asked, as its documents' queries are written down."""
    if not measured.unrelated:
        return {}
    contexts = place.unrelated_to(adapter)
    before, after = (together(contexts, answers) for answers in (place.unrelated.before, measured.unrelated))
    return {**_asked(contexts), "before": asdict(before), **asdict(after)}


def asked_of(place: Workplace, adapter: Adapter) -> str:
    """Digest of all that an adapter is asked."""
    contexts = [lesson.document.context for lesson in adapter.lessons]
    return asked_stamp(place.e_step, [*contexts, *place.unrelated_to(adapter)])


def _without(place: Workplace) -> JsonObject:
    return {why: list(names) for why, names in parts_without_adapter(place.policy.model).items()}


# -- reading -----------------------------------------------------------------------------------------------------------


def check(place: Workplace, adapters: list[Adapter]) -> None:
    """Refuse folders with adapters that were trained with other settings, before anything is written.

    Raises:
        ConfigError: A folder holds such an adapter.
    """
    for adapter in adapters:
        try:
            content = parse_json((place.folder(adapter) / RESULT).read_text(encoding="utf-8"))
            stamps = (content["policy"], content["stamp"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # missing or damaged, which `finished` deals with
        _refuse_others(place, adapter, stamps)


def _refuse_others(place: Workplace, adapter: Adapter, stamps: tuple[object, object]) -> None:
    if stamps != (place.stamp, adapter.stamp):
        raise ConfigError(
            f"{place.folder(adapter)}: expected an adapter of these settings, got one of others: choose another "
            "--output, or move it away"
        )


def finished(place: Workplace, adapter: Adapter) -> Answers | None:
    """What a finished adapter answers; None where some of it is missing or damaged, or other things are asked now.

    How to ask it is written again where that is missing.

    Raises:
        ConfigError: The folder holds an adapter that was trained with other settings.
        SavingError: The disk does not take that.
    """
    path = place.folder(adapter) / RESULT
    if not path.parent.is_dir():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stamps = (content["policy"], content["stamp"])
        answers = {row["document"]: Answered.from_dict(row) for row in content["measured"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: cannot be read (%s), so its adapter is trained again", path, misread(error))
        return None
    _refuse_others(place, adapter, stamps)
    if fault := _damage(place, adapter, content):
        log.warning("%s: damaged (%s), so it is trained again", path.parent, fault)
        return None
    if place.merged and not place.merged_folder(adapter).is_dir():
        return None
    for folder in (path.parent, *([place.merged_folder(adapter)] if place.merged else [])):
        if not (folder / PROMPT).is_file():
            save_text(folder / PROMPT, _prompt(place, adapter))
    return answers if content.get("asked") == asked_of(place, adapter) else None


def _damage(place: Workplace, adapter: Adapter, content: object) -> str:
    """What is wrong with an adapter's weights, or with its merged model's if that is wanted; empty if nothing is."""
    folder, merged = place.folder(adapter), place.merged_folder(adapter)
    if fault := damage(folder, read_record(content)):
        return fault
    try:
        if not adapter.whole:
            read_lora(folder)  # it has to load, whether its digests are recorded or not
    except ModelError as error:
        return str(error)
    return damage(merged, recorded_in(merged)) if place.merged and merged.is_dir() else ""


def read_facts(place: Workplace, adapter: Adapter) -> TrainingFacts:
    """What the training of a finished adapter came to."""
    content = parse_json((place.folder(adapter) / RESULT).read_text(encoding="utf-8"))
    losses = content.get("own_text") or {}
    return TrainingFacts(
        content["steps"], losses.get("before"), losses.get("after"), adapter.option, content.get("left_out", {})
    )


def read_alone(place: Workplace, adapter: Adapter) -> Answers:
    """What a finished adapter answered before a skill vector was added to it; empty where none was."""
    content = parse_json((place.folder(adapter) / RESULT).read_text(encoding="utf-8"))
    return {row["document"]: Answered.from_dict(row[ALONE]) for row in content["measured"] if ALONE in row}


def read_unrelated_answers(place: Workplace, adapter: Adapter) -> tuple[Answered, Answered] | None:
    """What was answered to a finished adapter's unrelated questions without it and with it; None without any."""
    content = parse_json((place.folder(adapter) / RESULT).read_text(encoding="utf-8"))
    row = content.get(UNRELATED)
    return (Answered.from_dict(row["before"]), Answered.from_dict(row)) if row else None
