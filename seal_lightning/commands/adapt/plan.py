"""What `seal adapt` works on together, planned once and written down before the work begins.

Passages that are written about in one unit, and adapters that train in one group, can share the last bits of their
results. So a run that was broken off goes on with the units and groups that it began with. Those of documents that have
not changed stay as they are; only what is missing is planned, after every change of the documents.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from seal_lightning.errors import JournalError, misread
from seal_lightning.files.bounded import read_json
from seal_lightning.files.saving import save_text

FILE = "plan.json"
Named: TypeAlias = tuple[str, str]  # a passage's id and digest, or an adapter's name and stamp


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit of the journal.

    Attributes:
        passages: What it is about; empty for one that was given up because its documents changed.
        copies: The unit that has the edits of the same passage under another id, if it need not be written about.
    """

    passages: tuple[Named, ...]
    copies: int | None = None


@dataclass(frozen=True, slots=True)
class WorkPlan:
    """The units, by their numbers in the journal, and the groups of adapters."""

    units: tuple[PlannedUnit, ...] = ()
    groups: tuple[tuple[Named, ...], ...] = ()

    def pending(self, written: Collection[int]) -> list[int]:
        """The units that are not in the journal."""
        return [number for number, unit in enumerate(self.units) if unit.passages and number not in written]

    def unit_of(self, written: Collection[int]) -> dict[Named, int]:
        """The unit in the journal that each passage was written about in."""
        return {named: number for number in sorted(written) for named in self.units[number].passages}


def plan_units(plan: WorkPlan, passages: Sequence[Named], written: Collection[int], *, per_unit: int) -> WorkPlan:
    """The plan with units for all passages; what was begun goes on unless the documents have changed since.

    Args:
        plan: What was planned before.
        passages: Id and digest of each passage.
        written: The units in the journal.
        per_unit: Passages of a new unit.
    """
    finished = plan.unit_of(written)
    begun = set(chain.from_iterable(plan.units[number].passages for number in plan.pending(written)))
    missing = [named for named in passages if named not in finished]
    if begun == set(missing):
        return plan
    kept = [unit if number in written else PlannedUnit(()) for number, unit in enumerate(plan.units)]
    known = {content: number for (_, content), number in reversed(finished.items())}
    copies = [PlannedUnit((named,), known[named[1]]) for named in missing if named[1] in known]
    new = [named for named in missing if named[1] not in known]
    together = [PlannedUnit(tuple(new[start : start + per_unit])) for start in range(0, len(new), per_unit)]
    return replace(plan, units=(*kept, *copies, *together))


def plan_groups(plan: WorkPlan, kinds: Sequence[tuple[int, Sequence[Named]]], finished: Collection[str]) -> WorkPlan:
    """The plan with groups for all adapters that are not finished.

    Args:
        plan: What was planned before.
        kinds: Names and stamps of adapters with the same settings, and how many of them train together.
        finished: Names of those that are there.
    """
    current = {named for _, adapters in kinds for named in adapters}
    groups = [group for group in plan.groups if current.issuperset(group)]
    grouped = set(chain.from_iterable(groups))
    for size, adapters in kinds:
        left = [named for named in adapters if named not in grouped and named[0] not in finished]
        groups += [tuple(left[start : start + size]) for start in range(0, len(left), size)]
    return replace(plan, groups=tuple(groups))


# -- on disk -----------------------------------------------------------------------------------------------------------


def save_plan(output: Path, plan: WorkPlan, *, known: WorkPlan) -> None:
    """Write the plan unless it is known. Raises `SavingError` if that fails."""
    if plan != known:
        save_text(output / FILE, json.dumps(asdict(plan), ensure_ascii=False) + "\n")


def read_plan(output: Path) -> WorkPlan:
    """The plan of a folder; an empty one where nothing was planned.

    Raises:
        JournalError: The file is damaged.
    """
    path = output / FILE
    if not path.exists():
        return WorkPlan()
    content = read_json(path, error=JournalError)
    try:
        planned = tuple(PlannedUnit(_pairs(unit["passages"]), _number(unit["copies"])) for unit in content["units"])
        return WorkPlan(planned, tuple(map(_pairs, content["groups"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(f"{path}: expected a plan, got another ({misread(error)}): restore it from a copy") from None


def _pairs(rows: Sequence[Sequence[str]]) -> tuple[Named, ...]:
    return tuple((str(name), str(content)) for name, content in rows)


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))
