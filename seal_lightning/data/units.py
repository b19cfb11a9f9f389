"""Units of work: contexts that are adapted to together, and that the journal keeps or repeats together."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.types import Context

Unit = tuple[Context, ...]


def units(contexts: Sequence[Context], per_unit: int) -> list[Unit]:
    """The contexts in order, `per_unit` at a time; the last unit has what is left."""
    return [tuple(contexts[start : start + per_unit]) for start in range(0, len(contexts), per_unit)]
