"""The stamp of a run: what all its figures depend on, written before the first of them and compared by every resume.

The journals' own stamps tell one phase from another; this one tells runs apart, also between rounds, when no journal is
open. It lies in the run folder as `run.json`, and in the checkpoints of a fit, so that neither goes on with settings
of another run. A difference is refused by name. What may differ on purpose (`Rules`) is written down with the
round from which on it holds, for the report. Which settings may change: docs/resuming.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seal_lightning.errors import JournalError, StaleJournalError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.saving import save_text
from seal_lightning.stamps.values import VERSIONS, changed_keys, show_differences

FILE = "run.json"
_OURS = f"{VERSIONS}seal-lightning"


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that became another one in the middle of a run.

    Attributes:
        round: From which round on, counted from 0; of a stream or documents, 0.
        key: Of the stamp.
        was: Its value before; None where it had none.
        now: Its value since.
    """

    round: int
    key: str
    was: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Record:
    """The stamp of a run as it is now, and what changed on the way.

    Attributes:
        finished: Whether the run has reached its end; None where nothing says so.
    """

    stamp: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    finished: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        end = {} if self.finished is None else {"finished": self.finished}
        return {**end, "stamp": dict(self.stamp), "changes": [asdict(change) for change in self.changes]}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a resume may differ in.

    Attributes:
        folder_option: What the user chose the folder with, for messages.
        versions_option: What allows other versions, for messages.
        other_versions: Whether it was given.
        noted: Whether a key may differ on purpose; that is written down.
    """

    folder_option: str
    versions_option: str
    other_versions: bool = False
    noted: Callable[[str], bool] = lambda key: False

    def may_differ(self, key: str) -> bool:
        """Whether a key of a journal's stamp may be another than in its file."""
        return self.noted(key) or (self.other_versions and key.startswith(VERSIONS))


def compare(record: Record, stamp: Mapping[str, Any], *, where: str, round: int, rules: Rules) -> Record:
    """The record of a run that goes on with a stamp, with what has changed.

    Args:
        record: Of the run so far.
        stamp: Of the run from now on, JSON values by name.
        where: The record comes from, for messages.
        round: From which the stamp holds.
        rules: What may differ.

    Raises:
        StaleJournalError: Something else differs.
    """
    before = record.stamp
    changed = changed_keys(before, stamp)
    # another version of this package may know settings that the other does not
    unknown = rules.other_versions and before.get(_OURS) != stamp.get(_OURS)
    refused = [
        key
        for key in changed
        if not rules.may_differ(key) and not (unknown and (key not in before or key not in stamp))
    ]
    kept = "Nothing was overwritten"
    if any(not key.startswith(VERSIONS) for key in refused):
        raise StaleJournalError(
            f"{where}: written with other settings ({show_differences(before, stamp, refused)}); choose another "
            f"{rules.folder_option}, or go back to those settings. {kept}"
        )
    if refused:
        raise StaleJournalError(
            f"{where}: written with other versions ({show_differences(before, stamp, refused)}); install those, or go "
            f"on with these by {rules.versions_option}, which is written down in the run. {kept}"
        )
    changes = tuple(Change(round, key, before.get(key), stamp.get(key)) for key in changed)
    return Record(stamp, record.changes + changes)


def without_record(folder: Path, *, rules: Rules) -> StaleJournalError:
    """The error of a run that was begun, and has no stamp."""
    return StaleJournalError(
        f"{folder}: expected the settings of this run in {FILE}, got no such file, as of an earlier version: "
        f"bring it back, finish the run with that version, or go on without comparing by {rules.versions_option}. "
        "Nothing was overwritten"
    )


# -- on disk -----------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where there is none.

    Raises:
        JournalError: It cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    return to_record(read_json(path, error=JournalError), where=str(path))


def to_record(content: Any, *, where: str) -> Record:
    """The record of a JSON value.

    Raises:
        JournalError: It is none.
    """
    try:
        stamp, changes, finished = content["stamp"], content["changes"], content.get("finished")
        if not isinstance(stamp, dict) or not isinstance(changes, list):
            raise TypeError("other types")
        if finished not in (True, False, None):
            raise TypeError("another type")
        found = tuple(Change(int(one["round"]), str(one["key"]), one["was"], one["now"]) for one in changes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(
            f"{where}: expected the settings of a run (stamp and changes), got other fields: bring it back from a "
            "copy, or remove it and go on with other versions allowed, which compares nothing"
        ) from error
    return Record(stamp, found, finished)


def save_record(folder: Path, record: Record) -> None:
    """Write the record. Raises `SavingError` where it cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    save_text(folder / FILE, json.dumps(record.to_dict(), ensure_ascii=False, indent=1) + "\n")


def show_changes(changes: Sequence[Change]) -> str:
    """What changed, in one line."""
    was = {change.key: change.was for change in changes}
    return show_differences(was, {change.key: change.now for change in changes}, was)
