"""The lab's passages as data: a reader for one split, and a data module with all of them and levels of difficulty."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from seal_lightning.data import Reader, SEALDataModule
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.lab.corpus import KNOWN_TOWNS, Corpus
from seal_lightning.lab.lines import ideal_edit
from seal_lightning.lab.world import (
    ATTRIBUTES,
    SPLITS,
    Fact,
    Passage,
    Split,
    Wording,
    names_of,
    passages,
    write_passage,
)
from seal_lightning.seeding import derive_seed
from seal_lightning.types import Context

Difficulty = Literal["easy", "standard", "hard"]


@dataclass(frozen=True, slots=True)
class Level:
    """What makes passages hard: how much is in them, and whether queries use words that no self-edit does."""

    towns: int
    attributes: int
    wording: Wording


LEVELS: dict[Difficulty, Level] = {
    "easy": Level(towns=1, attributes=3, wording="ask"),
    "standard": Level(towns=1, attributes=6, wording="ask"),
    "hard": Level(towns=1, attributes=6, wording="name"),
}


class LabPassages(Reader):
    """Passages of the lab's world, each with one query a fact and the ideal self-edit as its written edit.

    Args:
        split: train, validation or test (or pretraining); their towns are disjoint.
        count: How many passages.
        towns: Towns in a passage; the lab model has only read about one at a time, more confuse it.
        attributes: Attributes told of each town, 1 to 6.
        wording: How queries ask: `ask`, as question lines of a self-edit do, or `name`, in words no self-edit has.
        seed: Another seed gives other towns and facts.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        count: int = 12,
        towns: int = 1,
        attributes: int = 6,
        wording: Wording = "ask",
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}: use one of them")
        for name, value in (("count", count), ("towns", towns), ("attributes", attributes)):
            check_count(name, value)
        if attributes > len(ATTRIBUTES):
            raise ConfigError(f"attributes must be at most {len(ATTRIBUTES)}, got {attributes}: a town has no more")
        if count * towns > (names := len(names_of(split))):
            raise ConfigError(
                f"count x towns must be at most {names}, the names of the split {split}, got {count} x {towns}: ask "
                "for fewer passages"
            )
        self.split: Split = split
        self.count = count
        self.towns = towns
        self.attributes = attributes
        self.wording: Wording = wording
        self.seed = seed

    @property
    def source(self) -> str:
        return f"the lab's {self.split} passages"

    def passages(self) -> dict[str, Passage]:
        """The passages with their facts, by the id of their context."""
        found = passages(self.split, count=self.count, towns=self.towns, attributes=self.attributes, seed=self.seed)
        return {f"{self.split}-{number:03d}": passage for number, passage in enumerate(found)}

    def read(self) -> list[Context]:
        return [
            passage.context(name, wording=self.wording, edits=(ideal_edit(passage.facts),))
            for name, passage in self.passages().items()
        ]


class KnownTowns(Reader):
    """Towns that the lab model knows from its pre-training, to see what a policy loses of what it knew.

    Args:
        count: How many.
        skip: Leave out so many before them.
    """

    def __init__(self, *, count: int = 12, skip: int = 0) -> None:
        check_known(count, skip)
        self.count = count
        self.skip = skip

    @property
    def source(self) -> str:
        return "the towns that the lab model knows"

    def read(self) -> list[Context]:
        return [
            write_passage(facts, random.Random(derive_seed("lab known passage", town))).context(f"known-{number:03d}")
            for number, (town, facts) in known_towns(self.count, self.skip)
        ]


class ChangedTowns(Reader):
    """Towns that the lab model knows, in passages that tell other facts of them: can a passage win against the model?

    The right answers are those of the passage.

    Args:
        count: How many.
        skip: Leave out so many before them.
        seed: Another seed gives other facts, none of them those that the model knows.
    """

    def __init__(self, *, count: int = 12, skip: int = 0, seed: int = 0) -> None:
        check_known(count, skip)
        self.count = count
        self.skip = skip
        self.seed = seed

    @property
    def source(self) -> str:
        return "changed facts of the towns that the lab model knows"

    def read(self) -> list[Context]:
        contexts = []
        for number, (town, known) in known_towns(self.count, self.skip):
            draw = random.Random(derive_seed("lab changed passage", town, self.seed))
            passage = write_passage([_changed(fact, draw) for fact in known], draw)
            contexts.append(passage.context(f"changed-{number:03d}", edits=(ideal_edit(passage.facts),)))
        return contexts


def check_known(count: int, skip: int) -> None:
    """Raises `ConfigError` unless there are so many known towns behind the first ones."""
    if not 0 <= skip <= KNOWN_TOWNS - check_count("count", count):
        raise ConfigError(f"count and skip must be at most {KNOWN_TOWNS} together, got {count} and {skip}")


def known_towns(count: int, skip: int) -> list[tuple[int, tuple[str, list[Fact]]]]:
    """Some of the towns that the lab model knows with their facts, each with its number among all of them."""
    towns = list(Corpus(seed=0).known.items())
    return list(enumerate(towns))[skip : skip + count]


def _changed(fact: Fact, draw: random.Random) -> Fact:
    return replace(fact, value=draw.choice([value for value in fact.attribute.values if value != fact.value]))


class LabDataModule(SEALDataModule):
    """The lab's training, validation and test passages.

    Args:
        passages: For training.
        held_out: For validation, and as many others for test and predict.
        difficulty: `easy` (3 attributes of a town), `standard` (6), or `hard` (6, and queries in words that no
            self-edit has).
        towns: Towns in a passage, in place of the level's.
        attributes: Attributes of each town, in place of the level's.
        seed: Another seed gives other towns and facts.
        contexts_per_unit: How many contexts are adapted to together, and kept or repeated together after a crash; a GPU
            takes several such units at a time.
    """

    def __init__(
        self,
        *,
        passages: int = 12,
        held_out: int = 12,
        difficulty: Difficulty = "standard",
        towns: int | None = None,
        attributes: int | None = None,
        seed: int = 0,
        contexts_per_unit: int = 4,
    ) -> None:
        if difficulty not in LEVELS:
            raise ConfigError(f"data.difficulty must be one of {', '.join(LEVELS)}, got {difficulty!r}")
        level = LEVELS[difficulty]

        def reader(split: Split, count: int) -> LabPassages:
            return LabPassages(
                split,
                count=count,
                towns=level.towns if towns is None else towns,
                attributes=level.attributes if attributes is None else attributes,
                wording=level.wording,
                seed=seed,
            )

        test = reader("test", held_out)
        self.validation = reader("validation", held_out)
        super().__init__(
            train=reader("train", passages),
            validation=self.validation,
            test=test,
            predict=test,
            contexts_per_unit=contexts_per_unit,
        )

    def held_out_passages(self) -> dict[str, Passage]:
        """The validation passages with their facts, by the id of their context; for analysis."""
        return self.validation.passages()
