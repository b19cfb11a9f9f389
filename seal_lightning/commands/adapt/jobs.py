"""Which adapters `seal adapt` makes: one for each document, or one for all, each with its name and its training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.values import digest
from seal_lightning.types import AdapterJob, Directives

ALL = "all"  # the adapter of all documents


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter to make.

    Attributes:
        name: The name of its folder.
        lessons: What it learns, one lesson a document.
        job: Its training.
        inner_loop: The settings of that training.
    """

    name: str
    lessons: tuple[Lesson, ...]
    job: AdapterJob
    inner_loop: InnerLoop

    @property
    def stamp(self) -> str:
        """Digest of everything that its training depends on, apart from the policy."""
        return digest([asdict(self.job), asdict(self.inner_loop)])

    @property
    def option(self) -> str:
        """The option that holds the settings of its training."""
        return "together" if self.name == ALL else "model.inner_loop"


def one_each(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int) -> list[Adapter]:
    """An adapter for each document."""
    adapters = []
    for lesson in lessons:
        name = folder_name(lesson.document.id)
        job = _job([lesson], lesson.directives, lesson.seed or derive_seed("adapt", seed, name))
        adapters.append(Adapter(name, (lesson,), job, inner_loop))
    return adapters


def one_for_all(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int) -> Adapter:
    """One adapter for all documents: continued pre-training (arXiv 2506.10943, section 4.2)."""
    return Adapter(ALL, tuple(lessons), _job(lessons, Directives(), derive_seed("adapt", seed, ALL)), inner_loop)


def _job(lessons: Sequence[Lesson], directives: Directives, seed: int) -> AdapterJob:
    sequences = tuple(sequence for lesson in lessons for sequence in lesson.training_sequences)
    return AdapterJob(sequences, seed=seed, directives=directives)


def folder_name(document: str) -> str:
    """A folder name for a document's id: the id if that is a plain name, and never a path that leads elsewhere."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", document) and document != ALL:
        return document
    plain = re.sub(r"[^A-Za-z0-9]+", "-", document).strip("-")[:40] or "document"
    return f"{plain}-{hashlib.blake2b(document.encode(), digest_size=4).hexdigest()}"
