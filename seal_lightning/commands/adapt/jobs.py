"""Which adapters `seal adapt` makes, one for each document or one for all, and what it makes them with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.unrelated import OF_ALL, OF_ONE, Unrelated
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.e_step.step import EStep
from seal_lightning.generator.merging import Way
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.lora import LoRA
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import Screen
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.values import digest
from seal_lightning.types import AdapterJob, Context, Directives

Answers = Mapping[str, Answered]  # by document; those without queries are not in it
ALL = "all"  # the adapter of all documents
# Settings of the inner loop that say what a LoRA is; they say nothing where all weights are trained.
OF_LORA = ("rank", "alpha", "target_modules", "layers", "max_adapters")


# Measures adapters on the texts that a generator has read; nothing is trained with these settings.
READ = InnerLoop(max_length=1 << 30)


@dataclass(frozen=True, slots=True)
class Merging:
    """How the adapters that a generator writes become one.

    Attributes:
        way: As `make_merger` has it.
        rank: The largest rank of the result; None for no limit.
    """

    way: Way
    rank: int | None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter to make.

    Attributes:
        name: The name of its folder.
        lessons: What it learns, one lesson a document.
        job: Its training.
        inner_loop: The settings of that training; None where a generator writes the adapter.
        merging: How it comes from the adapters of several documents that a generator wrote; None for that of one.
        whole: Whether all weights are trained instead of a LoRA.
    """

    name: str
    lessons: tuple[Lesson, ...]
    job: AdapterJob
    inner_loop: InnerLoop | None
    merging: Merging | None = None
    whole: bool = False

    @property
    def stamp(self) -> str:
        """Digest of everything that its training depends on, apart from the policy."""
        if self.inner_loop is None:
            return digest([asdict(self.job), self.merging and asdict(self.merging)])
        return digest([asdict(self.job), asdict(self.inner_loop), *(["whole"] if self.whole else [])])

    @property
    def measure(self) -> InnerLoop:
        """What its loss on its own text is measured with."""
        return self.inner_loop or READ

    @property
    def option(self) -> str:
        """The option that holds the settings of its training; empty where there was none."""
        if self.inner_loop is None:
            return ""
        return "together" if self.name == ALL else "model.inner_loop"


@dataclass(frozen=True, slots=True)
class Skill:
    """A run's skill vector.

    Attributes:
        name: Name of the run's folder.
        lora: The vector, with its scale.
        scale: How often it counts.
        stamp: Digest of its weights and its scale.
    """

    name: str
    lora: LoRA
    scale: float
    stamp: str

    @property
    def said(self) -> str:
        """It in words."""
        return f"the skill vector of {self.name} times {self.scale:g}"


@dataclass(frozen=True, slots=True)
class AdapterAnswers:
    """What an adapter answers.

    Attributes:
        after: About its documents.
        unrelated: The unrelated questions that it was asked.
        alone: About its documents, before a skill vector was added to it; empty without one.
    """

    after: Answers
    unrelated: Answers = field(default_factory=dict)
    alone: Answers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Everything that making an adapter takes besides the adapter's own job.

    Attributes:
        e_step: Asks and grades.
        policy: The frozen policy.
        output: The folder of the command.
        stamp: Fingerprint of the policy, and of the generator where there is one.
        every_steps: Optimizer steps between two checkpoints.
        merged: Whether whole weights are written too.
        source: The base model as it was loaded.
        base: The base model as cards name it.
        data_licence: The documents' licence, for the cards.
        unread: How many files beside the documents were left out.
        screen: Shows progress.
        check_stop: Raises where a signal asked the command to stop.
        before: What the policy answers without an adapter, once that is known.
        open_book: What it answers without an adapter with the document in view, once that is known.
        unrelated: Questions about other things, which show what learning has cost.
        skill: What is added to every adapter once it is trained; None for nothing.
    """

    e_step: EStep
    policy: Policy
    output: Path
    stamp: str
    every_steps: int
    merged: bool
    source: ModelSource
    base: Origin
    data_licence: str | None
    unread: int
    screen: Screen
    check_stop: Callable[[], None]
    before: Answers = field(default_factory=dict)
    open_book: Answers = field(default_factory=dict)
    unrelated: Unrelated = field(default_factory=Unrelated)
    skill: Skill | None = None

    def folder(self, adapter: Adapter) -> Path:
        """The PEFT folder of an adapter, or the model's folder where all weights were trained."""
        return self.output / ("weights" if adapter.whole else "adapters") / adapter.name

    def merged_folder(self, adapter: Adapter) -> Path:
        """The folder of the whole weights with an adapter merged in."""
        return self.output / "merged" / adapter.name

    def unrelated_to(self, adapter: Adapter) -> list[Context]:
        """The unrelated questions that an adapter is asked."""
        return self.unrelated.asked_of(adapter.name, most=OF_ALL if adapter.name == ALL else OF_ONE)


def sent(place: Workplace) -> dict[str, Any]:
    """What a worker is sent of it: everything that it does not have itself."""
    own = ("policy", "screen", "check_stop")
    return {part.name: getattr(place, part.name) for part in fields(place) if part.name not in own}


def one_each(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int) -> list[Adapter]:
    """An adapter for each document."""
    adapters = []
    for lesson in lessons:
        name = folder_name(lesson.document.id)
        job = _job([lesson], lesson.directives, lesson.seed or derive_seed("adapt", seed, name))
        adapters.append(Adapter(name, (lesson,), job, inner_loop))
    return adapters


def one_for_all(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int, whole: bool = False) -> Adapter:
    """One adapter, or all weights, for all documents: continued pre-training (arXiv 2506.10943, section 4.2)."""
    job = _job(lessons, Directives(), derive_seed("adapt", seed, ALL))
    return Adapter(ALL, tuple(lessons), job, inner_loop, whole=whole)


def _job(lessons: Sequence[Lesson], directives: Directives, seed: int) -> AdapterJob:
    sequences = tuple(sequence for lesson in lessons for sequence in lesson.training_sequences)
    return AdapterJob(sequences, seed=seed, directives=directives)


def folder_name(document: str) -> str:
    """A folder name for a document's id: the id if that is a plain name, and never a path that leads elsewhere."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", document) and document != ALL:
        return document
    plain = re.sub(r"[^A-Za-z0-9]+", "-", document).strip("-")[:40] or "document"
    return f"{plain}-{hashlib.blake2b(document.encode(), digest_size=4).hexdigest()}"
