"""Rollouts that were written down earlier, read from journals and official runs, for `seal replay` and `seal report`.

A journal of several ranks is one entry; different rounds are different entries, since their edits come from different
policies and must not meet in one group. Grading, rewarding and racing anew: `anew.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.errors import DataError, JournalError
from seal_lightning.files.bounded import read_bytes
from seal_lightning.files.contained import contained
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.records.lines import Edits, add_units, read_content
from seal_lightning.records.official import OfficialRun, read_run
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup

OF_DOCUMENTS = "adapt"  # the journal of `seal adapt`, whose documents change between two runs
JOURNAL = re.compile(r"(.*?)(\.rank-\d+)?\.(jsonl|ndjson)(\.gz)?")


class NothingFinished(DataError):
    """A folder or journal in which no unit is finished yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The rollouts of one round.

    Attributes:
        source: What the user named.
        name: The name of the journal or run in tables.
        rollouts: The rollouts by unit, context, edit and repeat.
        files: The files that were read.
        teaches: Whether a fit learns from such rollouts: never from those of validation and test.
        run: The official run, where it is one.
        kept: The edits that the filter has kept; None where that is not written down, as before a round's end.
    """

    source: str
    name: str
    rollouts: tuple[Rollout, ...]
    files: tuple[Path, ...]
    teaches: bool = True
    run: OfficialRun | None = None
    kept: Edits | None = None

    def outcomes(self) -> list[EditOutcome] | None:
        """The edits that were kept, each with its repeats averaged; None where that is not written down."""
        return None if self.kept is None else chosen(group_rollouts(self.rollouts), self.kept)


def chosen(groups: Iterable[RolloutGroup], kept: Edits) -> list[EditOutcome]:
    """The outcomes of the edits that were kept, in the order in which the filter gave them."""
    outcomes = {(each.context_id, each.edit_index): each for group in groups for each in group.outcomes}
    return [outcomes[edit] for edit in kept if edit in outcomes]


def read_entries(source: str) -> list[Entry]:
    """Read a run folder, its journal folder, one journal in it (`RUN/journal/train-000`), a file of one, or a run file.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    place = Path(source).expanduser()
    journals = _journals(place)
    if journals is None:
        run = read_run(place)
        return [Entry(source, re.sub(r"\.json(\.gz)?$", "", place.name), run.rollouts, (place,), run=run)]
    entries = [entry for name, files in journals.items() for entry in _journal_entries(source, name, files)]
    if not entries:
        got = "none: give `seal fit` more time"
        raise NothingFinished(f"{source}: expected a journal with a finished unit, got {got}")
    return entries


def is_run_file(source: str) -> bool:
    """Whether it names a file, and not one of a journal."""
    place = Path(source).expanduser()
    return place.is_file() and not JOURNAL.fullmatch(place.name)


def _journals(place: Path) -> dict[str, list[Path]] | None:
    """The files of each journal that `place` means, by the journal's name; None where `read_run` has to read it."""
    if place.is_dir():
        folder = place / "journal" if (place / "journal").is_dir() else place
        inside = [path for path in sorted(folder.iterdir()) if JOURNAL.fullmatch(path.name)]
        files = [contained(place, path.relative_to(place)) for path in inside]
        if not files:
            got = "one without journals (*.jsonl)"
            raise NothingFinished(f"{place}: expected a run folder, got {got}: name a run's folder")
    elif place.exists():
        files = [place] if JOURNAL.fullmatch(place.name) else []
    else:
        siblings = sorted(place.parent.iterdir()) if place.parent.is_dir() else []
        files = [path for path in siblings if _name(path) == place.name]
    journals: dict[str, list[Path]] = {}
    for path in files:
        journals.setdefault(_name(path), []).append(path)
    return journals or None


def _name(path: Path) -> str:
    """The name of the journal that a file belongs to; "" where it belongs to none."""
    matched = JOURNAL.fullmatch(path.name)
    return matched[1] if matched else ""


def _journal_entries(source: str, name: str, files: Sequence[Path]) -> list[Entry]:
    units: dict[int, list[Rollout]] = {}
    kept: dict[int, Edits] = {}
    for file in files:
        try:
            content = read_content(file, read_bytes(file))
            add_units(units, file, content.units)
            kept = {**content.kept, **kept}  # the first rank's line counts
        except JournalError as error:
            raise DataError(str(error)) from error  # the user's file, not a run of ours
    by_round: dict[int, list[Rollout]] = {}
    last = {rollout.context_id: unit for unit in sorted(units) for rollout in units[unit]}
    for unit in sorted(units):
        for rollout in units[unit]:
            if name == OF_DOCUMENTS and last[rollout.context_id] != unit:  # of an earlier version of the document
                continue
            by_round.setdefault(rollout.round, []).append(rollout)
    for rollouts in by_round.values():
        edits = [rollout for rollout in rollouts if rollout.kind == "edit"]
        if edits and all(rollout.dropped for rollout in edits):
            got = "a round without any: read the whole journal"
            raise DataError(f"{files[0]}: expected self-edits that a race did not drop, got {got}")
    return [
        Entry(
            source,
            name if len(by_round) == 1 else f"{name} round {number}",
            tuple(rollouts),
            tuple(files),
            teaches=not name.startswith(("validation-", "test-")),
            kept=kept.get(number),
        )
        for number, rollouts in sorted(by_round.items())
    ]
