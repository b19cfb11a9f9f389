"""Adapters that a generator writes (`--generator`): each document is read once, and nothing is trained.

document -> the text that the generator reads -> its adapter; or all documents' adapters, merged into one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice

import torch

from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.jobs import ALL, Adapter, Merging, Workplace, folder_name
from seal_lightning.data.documents import Document
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import NoMemoryError
from seal_lightning.files.digests import digests_of
from seal_lightning.generator.base import NOT_FINITE
from seal_lightning.generator.files import generator_folder, load_generator
from seal_lightning.generator.lessons import text_of
from seal_lightning.generator.merging import Member, make_merger, members_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import batches
from seal_lightning.generator.trials import generating_step
from seal_lightning.inner_loop.isolation import answering_way
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.finite import all_finite
from seal_lightning.models.loading import fingerprint
from seal_lightning.models.lora import LoRA
from seal_lightning.models.memory import attempt
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import Device, load_policy
from seal_lightning.sampling import LocalAnswerer
from seal_lightning.stamps.values import describe, digest
from seal_lightning.tasks import Task
from seal_lightning.text.escaping import shortened
from seal_lightning.types import AdapterJob, Directives

TOGETHER = 16  # documents whose adapters are asked and written together
LOST = 1e-3  # share of a change's norm, which merging may leave out without a word


# -- the generator -----------------------------------------------------------------------------------------------------


def load_generating(source: ModelSource, generator: str, device: Device, *, trusted: bool) -> GeneratingPolicy:
    """The frozen base model on its device, and the generator of a run beside it.

    Raises:
        ConfigError: There is no generator or no such device, or it asks for what only the user may choose.
        ModelError: Base or generator cannot be loaded, or do not fit together.
    """
    generator_folder(generator)  # before the base model is loaded
    base = load_policy(source, None, device)
    network = load_generator(generator, base, trusted=trusted)
    return GeneratingPolicy(base.model, base.tokenizer, base.chat, base.learned, network=network)


def stamp_of(policy: GeneratingPolicy, generator: str) -> str:
    """Digest of the base model and of the generator."""
    weights = digests_of(generator_folder(generator))
    return digest([fingerprint(policy.model), weights, describe(policy.network.settings)])


def check_texts(policy: GeneratingPolicy, e_step: EStep, documents: Sequence[Document]) -> None:
    """Refuse a model that cannot answer with adapters, and documents that are longer than what the generator reads.

    Raises:
        ConfigError: A document has no text.
        ModelError: Names the first document that is too long, or that has a query which is.
    """
    if isinstance(e_step.answerer, LocalAnswerer):
        answering_way(policy.model, list(policy.network.sizes))
    contexts = [document.context for document in documents]
    generating_step(e_step).check_fits(policy, contexts, advice=lambda context: "split the document")


# -- what there is to write --------------------------------------------------------------------------------------------


def generated_each(task: Task, documents: Sequence[Document]) -> list[Adapter]:
    """An adapter for each document."""
    lessons = read_by_generator(task, documents)
    return [Adapter(folder_name(lesson.document.id), (lesson,), _job([lesson]), None) for lesson in lessons]


def generated_for_all(lessons: Sequence[Lesson], merging: Merging) -> Adapter:
    """The adapters of all documents, merged into one."""
    return Adapter(ALL, tuple(lessons), _job(lessons), None, merging)


def read_by_generator(task: Task, documents: Sequence[Document]) -> list[Lesson]:
    """Documents as a generator reads them: whole, and as training on the passage alone has them."""
    return [
        Lesson(document, tuple(task.passage_sequences(document.context)), Directives(), None, 0, (), unwritten=0)
        for document in documents
    ]


def _job(lessons: Sequence[Lesson]) -> AdapterJob:
    """What an adapter is measured on, as training sequences; none of them is trained on."""
    return AdapterJob(tuple(chain.from_iterable(lesson.training_sequences for lesson in lessons)), seed=0)


# -- writing -----------------------------------------------------------------------------------------------------------


def generate(place: Workplace, group: Sequence[Adapter]) -> TrainedBank:
    """The adapters of a group, in a bank; one that is not finite has diverged, and changes nothing there.

    Raises:
        NoMemoryError: The memory does not suffice.
    """
    made, reason = attempt(lambda: _written(place, group))
    if made is None:
        raise NoMemoryError(f"there is no memory for the adapters of {len(group)} documents ({reason}): split them")
    sound = [all_finite(lora.state.values()) for lora in made]
    loras = [lora if is_sound else _nothing(lora) for lora, is_sound in zip(made, sound, strict=True)]
    stats = [JobStats(0, 0, 0, 0, diverged="" if is_sound else NOT_FINITE) for is_sound in sound]
    return TrainedBank(lora_bank(place.policy.model, loras), tuple(stats))


def _written(place: Workplace, group: Sequence[Adapter]) -> list[LoRA]:
    """What the generator writes for each adapter of a group."""
    policy, task = place.policy, place.e_step.task
    assert isinstance(policy, GeneratingPolicy), "the command has loaded the generator"
    texts = [text_of(task, lesson.document.context) for adapter in group for lesson in adapter.lessons]
    members = chain.from_iterable(members_of(policy, batch) for batch in batches(policy, texts))
    loras = []
    for adapter in group:
        own = list(islice(members, len(adapter.lessons)))
        loras.append(_merged(place, policy, adapter, own) if adapter.merging else own[0].lora)
    return loras


def _nothing(lora: LoRA) -> LoRA:
    """A LoRA of the same shape that changes nothing."""
    return replace(lora, state={name: torch.zeros_like(tensor) for name, tensor in lora.state.items()})


def _merged(place: Workplace, policy: GeneratingPolicy, adapter: Adapter, members: Sequence[Member]) -> LoRA:
    """The adapter of several documents; those whose own is not finite stay out of it, and are told."""
    assert adapter.merging is not None
    most = max(min(sizes) for sizes in policy.network.sizes.values())  # at which nothing is lost
    rank = min(adapter.merging.rank or most, most)
    merger = make_merger(adapter.merging.way, network=policy.network, rank=rank)
    for lesson, member in zip(adapter.lessons, members, strict=True):
        if all_finite(member.lora.state.values()):
            merger.add(lesson.document.id, member)
        else:
            name = shortened(lesson.document.id, 60)
            place.screen.line(f"{name}: left out of the adapter for all, because {NOT_FINITE}")
    if not merger.members:
        return members[0].lora
    merged = merger.merged()
    if merged.lost > LOST:
        place.screen.line(f"one adapter for all: rank {rank} leaves out {merged.lost:.1%} of the documents' change")
    return merged.lora
