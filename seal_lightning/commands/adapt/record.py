"""What the adapters of a folder depend on besides its documents: refused where it differs, and noted for asking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace

from seal_lightning.commands.adapt.baseline import BASELINE
from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.commands.adapt.folders import RESULT
from seal_lightning.commands.adapt.jobs import Workplace
from seal_lightning.commands.adapt.keeping import Wanted, document_digest
from seal_lightning.commands.standalone import check_record, rules
from seal_lightning.data.documents import Document
from seal_lightning.e_step.step import EStep
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.fit.units import make_stamp
from seal_lightning.library.manifest import ADAPTERS, WEIGHTS, Base
from seal_lightning.models.loading import fingerprint
from seal_lightning.models.origins import is_hub_name
from seal_lightning.records.journal import is_begun
from seal_lightning.stamps.run import save_record
from seal_lightning.stamps.settings import NotPlain, plain
from seal_lightning.stamps.values import CODE, VERSIONS, describe, digest, flat
from seal_lightning.types import Json, JsonObject


def check_settings(options: Namespace, place: Workplace, choice: EditChoice) -> str:
    """Refuse a folder of other settings, and write down those that all its adapters depend on; their digest.

    Raises:
        StaleJournalError: The folder was begun with other settings.
    """
    if options.generator:
        depends: JsonObject = {**_always(written_with(place, place.e_step)), "generator": place.stamp}
    else:
        depends = _depends(options, choice, written_with(place, choice.e_step))
    stamp = {**depends, "tokenizer": tokenizer_digest(place.policy.tokenizer)}
    stamp |= {"skill": place.skill.stamp} if place.skill else {}
    allowed = rules(other_versions=options.allow_other_versions)
    record = check_record(place.output, stamp, begun=_was_begun(place.output), rules=allowed)
    save_record(place.output, record)
    return digest(dict(record.stamp))


def written_with(place: Workplace, e_step: EStep) -> JsonObject:
    """The stamp of what is written about passages, without the passages."""
    chat, base = place.policy.chat_stamp, fingerprint(place.policy.model)
    stamp = make_stamp(e_step, [], chat=chat, base=base, policy="")
    del stamp["contexts"]
    return stamp


def wanted_of(
    options: Namespace, place: Workplace, documents: Sequence[Document], choice: EditChoice, *, settings: str
) -> Wanted:
    """What the folder is to hold, and what it takes to ask it.

    Args:
        options: The options.
        place: What adapters are made with.
        documents: The documents.
        choice: How edits are made.
        settings: Digest of the settings.
    """
    return Wanted(
        base=Base(place.base.name, place.base.revision, fingerprint(place.policy.model)),
        tokenizer=_tokenizer(place),
        asked_with=_asked_with(options, place),
        settings=settings,
        documents=documents,
        digests=digests_of_documents(options, documents, choice),
        each=options.adapters != "all",
        together=together_of(options),
    )


def digests_of_documents(options: Namespace, documents: Sequence[Document], choice: EditChoice) -> dict[str, str]:
    """Digest of each document, with all that its adapter depends on of it, by id."""
    asked = choice.rewarded and not options.generator
    return {document.id: document_digest(document, asked=asked) for document in documents}


def together_of(options: Namespace) -> str | None:
    """The folder of the adapter of all documents, or None where there is to be none."""
    if options.adapters == "each":
        return None
    return f"{WEIGHTS if options.tuning == 'full' else ADAPTERS}/all"


# -- steps -------------------------------------------------------------------------------------------------------------


def _asked_with(options: Namespace, place: Workplace) -> JsonObject:
    """The base model as it was loaded, and what its prompts and answers depend on; as the user named them."""
    try:
        task = plain(place.e_step.task)
    except NotPlain:  # a class of a script: who asks has to name it
        task = None
    return {
        "source": plain(asdict(place.source)),
        "task": task,
        "max_answer_tokens": place.e_step.max_answer_tokens,
        "chat": place.policy.chat_stamp,
        "policy": options.policy,
        "generator": options.generator,
        "skill": options.skill,
    }


def _tokenizer(place: Workplace) -> str:
    name = str(place.policy.tokenizer.name_or_path)
    return name if is_hub_name(name) else place.base.name


def _always(seen: Mapping[str, Json]) -> JsonObject:
    """Of a stamp, what adapters depend on whether they learn from edits or not."""
    always = {key: value for key, value in seen.items() if key in ("base", "chat", "seed")}
    return always | {key: value for key, value in seen.items() if key.startswith((CODE, VERSIONS))}


def _depends(options: Namespace, choice: EditChoice, seen: JsonObject) -> JsonObject:
    """What all adapters of the folder depend on, and with self-edits all rollouts; not the documents, which change."""
    edits = {**seen, "rewarded": choice.rewarded, "contexts_per_unit": options.contexts_per_unit}
    return {
        **(edits if options.learn == "edits" else _always(seen)),
        "learn": options.learn,
        "keep": options.keep,
        "passage_chars": options.passage_chars,
        **flat("together.", describe(options.together)),
        **flat("inner_loop.", describe(options.model.e_step.inner_loop)),
        "save_every": options.save_every,
        "tuning": options.tuning,
    }


def _was_begun(output: Path) -> bool:
    """Whether the folder holds something that was computed."""
    results = [path for folder in (ADAPTERS, WEIGHTS) for path in (output / folder).glob(f"*/{RESULT}")]
    made = (output / BASELINE, *results, *(output / "training").glob("*"))
    return any(path.exists() for path in made) or is_begun(output / "journal", "adapt.rank-*.jsonl")
