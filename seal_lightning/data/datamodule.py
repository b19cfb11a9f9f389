"""The data module: contexts of each split, handed out in units.

A unit is a tuple of contexts that are adapted to together, and what the journal keeps; a loader gives its number. No
loader serves training: a round of SEAL makes its own training data from `train_contexts`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from seal_lightning.data.base import Reader, units
from seal_lightning.data.detect import reader_for
from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context

Split = Literal["train", "validation", "test", "predict"]

NEEDED: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train",),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
    None: (),
}
# Also read if it is set: fit validates after rounds, and looks for training contexts in the test data.
ALSO_READ: dict[str | None, tuple[Split, ...]] = {
    "fit": ("validation", "test"),
    None: ("train", "validation", "test", "predict"),
}


class SEALDataModule(LightningDataModule, Remembers):
    """Contexts for each command; a path is enough, a reader has options.

    Args:
        train: Contexts to learn from in `fit`: a file, a folder, or a reader. Each needs queries, unless
            `model.e_step.queries` is `own` or `model.e_step.score_by` is `rubric`.
        validation: Contexts for the policy's score after rounds, and for `validate`. Each needs queries.
        test: Contexts for `test`. Each needs queries.
        predict: Contexts for `predict`, which writes self-edits and needs no queries; where `model.predict` is
            `answers` it answers queries, with or without known answers.
        limit_train: Use the first contexts only, at most this many; null uses all.
        limit_validation: The same for validation.
        limit_test: The same for test.
        limit_predict: The same for predict.
        shuffle_seed: Shuffle each split with this seed, before its limit; null keeps the order of the data.
        contexts_per_unit: How many contexts are adapted to together, and kept or repeated together after a crash; a GPU
            takes several such units at a time.
        allow_overlap: Let contexts of `train`, or their ids, be in `validation` or `test` too.
    """

    def __init__(
        self,
        *,
        train: str | Reader | Path | None = None,
        validation: str | Reader | Path | None = None,
        test: str | Reader | Path | None = None,
        predict: str | Reader | Path | None = None,
        limit_train: int | None = None,
        limit_validation: int | None = None,
        limit_test: int | None = None,
        limit_predict: int | None = None,
        shuffle_seed: int | None = None,
        contexts_per_unit: int = 4,
        allow_overlap: bool = False,
    ) -> None:
        super().__init__()
        self.sources: dict[Split, str | Reader | Path | None] = {
            "train": train,
            "validation": validation,
            "test": test,
            "predict": predict,
        }
        self.limits: dict[Split, int | None] = {
            "train": limit_train,
            "validation": limit_validation,
            "test": limit_test,
            "predict": limit_predict,
        }
        for split, limit in self.limits.items():
            if limit is not None:
                check_count(f"data.limit_{split}", limit)
        if shuffle_seed is not None and (isinstance(shuffle_seed, bool) or not isinstance(shuffle_seed, int)):
            raise ConfigError(f"data.shuffle_seed must be a whole number or null, got {shuffle_seed!r}: try 0")
        self.shuffle_seed = shuffle_seed
        self.contexts_per_unit = check_count("data.contexts_per_unit", contexts_per_unit)
        self.allow_overlap = allow_overlap
        self._read: dict[Split, list[Context]] = {}

    @property
    def train_contexts(self) -> list[Context]:
        return self._read.get("train", [])

    @property
    def validation_contexts(self) -> list[Context]:
        return self._read.get("validation", [])

    @property
    def test_contexts(self) -> list[Context]:
        return self._read.get("test", [])

    @property
    def predict_contexts(self) -> list[Context]:
        return self._read.get("predict", [])

    def setup(self, stage: str | None = None) -> None:
        """Read what the command needs, once, and refuse data that it cannot use.

        Args:
            stage: fit, validate, test or predict; None reads every split that is set.

        Raises:
            ConfigError: A split that the command needs is not set.
            DataError: The data cannot be read, lacks queries, or overlaps between train and the rest.
        """
        for split in NEEDED[stage]:
            if self.sources[split] is None:
                command = getattr(stage, "value", stage)  # Lightning gives an enum
                raise ConfigError(f"data.{split} is not set: {command} needs it, name a file, a folder or a reader")
        also: list[Split] = [split for split in ALSO_READ.get(stage, ()) if self.sources[split] is not None]
        for split in (*NEEDED[stage], *also):
            if split not in self._read:
                self._read[split] = self._contexts(split)
        if "train" in self._read and not self.allow_overlap:
            self._check_overlap("validation")
            self._check_overlap("test")

    def val_dataloader(self) -> DataLoader[int]:
        return self._loader(self.validation_contexts)

    def test_dataloader(self) -> DataLoader[int]:
        return self._loader(self.test_contexts)

    def predict_dataloader(self) -> DataLoader[int]:
        return self._loader(self.predict_contexts)

    def _contexts(self, split: Split) -> list[Context]:
        source: object = self.sources[split]
        if not isinstance(source, Reader) and not (isinstance(source, str | os.PathLike) and str(source).strip()):
            raise ConfigError(
                f"data.{split} must be a path or a reader, got {source!r}: name a file, a folder or a reader"
            )
        reader = reader_for(source)
        contexts = list(reader.read())  # a copy: it may be the user's own list
        name = f"data.{split}={reader.source}"
        if not contexts:
            raise DataError(f"{name}: expected at least one context, got none: check the data")
        if self._needs_queries(split):
            _check_queries(contexts, name=name, golds=split != "predict")
        if self.shuffle_seed is not None:
            random.Random(derive_seed("shuffle", split, self.shuffle_seed)).shuffle(contexts)
        return contexts[: self.limits[split]]

    def _needs_queries(self, split: Split) -> bool:
        """Training contexts need none if the module has a model write them, or marks edits by a rubric."""
        module = getattr(self.trainer, "lightning_module", None)
        if split == "predict":
            return getattr(module, "answers_queries", False)
        plan = getattr(getattr(module, "e_step", None), "plan", None)
        return split != "train" or plan is None or plan.needs_queries

    def _check_overlap(self, split: Split) -> None:
        trained, held_out = {_text(context) for context in self.train_contexts}, self._read.get(split, [])
        shared = [context for context in held_out if _text(context) in trained]
        if shared:
            raise DataError(
                f"data.{split} must not share contexts with data.train, but {len(shared)} of {len(held_out)} are in "
                f"both (first: {shared[0].title!r}): remove them, or set data.allow_overlap to true"
            )

    def _loader(self, contexts: Sequence[Context]) -> DataLoader[int]:
        """Batches are the numbers of units: precision plugins and samplers cannot alter a number."""
        count = len(units(contexts, self.contexts_per_unit))
        return DataLoader(range(count), batch_size=1, collate_fn=itemgetter(0), num_workers=0)  # type: ignore[arg-type]


def _check_queries(contexts: Sequence[Context], *, name: str, golds: bool) -> None:
    """Raises `DataError` unless every context has queries, and every query has golds where they are needed."""
    if without := [context for context in contexts if not context.queries]:
        raise DataError(
            f"{name}: expected queries for every context, got none for {len(without)} of {len(contexts)}"
            f" (first: {without[0].title!r}): add queries, or remove these contexts"
        )
    unknown = [context for context in contexts if not context.is_scorable]
    if golds and unknown:
        raise DataError(
            f"{name}: expected an answer to every query, got queries without one for {len(unknown)} of {len(contexts)}"
            f" contexts (first: {unknown[0].title!r}): add the answers (of ARC: the file of solutions), or have them"
            " answered by seal predict --model.predict answers"
        )


def _text(context: Context) -> tuple[str, str]:
    """Title and passage with white space normalised, so that it cannot hide a leak."""
    return " ".join(context.title.split()), " ".join(context.passage.split())
