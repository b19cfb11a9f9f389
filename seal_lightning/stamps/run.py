"""The stamp of a run: what all its figures depend on, written before the first of them and compared by every resume.

The journals' own stamps tell one phase from another; this one tells runs apart, even between rounds, when no journal is
open. It lies in the run folder as `run.json`, and in the checkpoints of a fit, so that neither continues with the
settings of another run. A difference is refused by name. What may differ on purpose (`Rules`) is recorded with the
round from which it applies, for the report. Which settings may change: docs/resuming.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seal_lightning.errors import JournalError, StaleJournalError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.saving import save_text
from seal_lightning.stamps.values import VERSIONS, changed_keys, show_differences
from seal_lightning.types import Json

FILE = "run.json"
_OURS = f"{VERSIONS}seal-lightning"


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that changed in the middle of a run.

    Attributes:
        round: First round with the new value, counted from 0; always 0 for a stream or documents.
        key: The setting's key in the stamp.
        was: Its value before; None if it had none.
        now: Its value since.
    """

    round: int
    key: str
    was: Json
    now: Json


@dataclass(frozen=True, slots=True)
class Record:
    """The stamp of a run as it is now, and what changed on the way.

    Attributes:
        finished: Whether the run has reached its end; None if that is not recorded.
    """

    stamp: Mapping[str, Json]
    changes: tuple[Change, ...] = ()
    finished: bool | None = None

    def to_dict(self) -> dict[str, object]:
        end = {} if self.finished is None else {"finished": self.finished}
        return {**end, "stamp": dict(self.stamp), "changes": [asdict(change) for change in self.changes]}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a resume may differ in.

    Attributes:
        folder_option: The option that chose the folder, for messages.
        versions_option: The option that allows other versions, for messages.
        other_versions: Whether that option was given.
        noted: Tells whether a key may differ on purpose, which is then recorded.
    """

    folder_option: str
    versions_option: str
    other_versions: bool = False
    noted: Callable[[str], bool] = lambda key: False

    def may_differ(self, key: str) -> bool:
        """Whether a key of a journal's stamp may differ from the one in its file."""
        return self.noted(key) or (self.other_versions and key.startswith(VERSIONS))


def compare(record: Record, stamp: Mapping[str, Json], *, where: str, round: int, rules: Rules) -> Record:
    """The record of a run that continues with a stamp, including what has changed.

    Args:
        record: The run so far.
        stamp: The stamp from now on, JSON values by name.
        where: Where the record comes from, for messages.
        round: First round to which the stamp applies.
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
            f"{where}: written with other versions ({show_differences(before, stamp, refused)}); install those, or "
            f"continue with these by {rules.versions_option}, which is recorded in the run. {kept}"
        )
    changes = tuple(Change(round, key, before.get(key), stamp.get(key)) for key in changed)
    return Record(stamp, record.changes + changes)


def without_record(folder: Path, *, rules: Rules) -> StaleJournalError:
    """The error for a run that was begun but has no stamp."""
    return StaleJournalError(
        f"{folder}: expected the settings of this run in {FILE}, got no such file, as from an earlier version: "
        f"restore it, finish the run with that version, or continue without comparing by {rules.versions_option}. "
        "Nothing was overwritten"
    )


# -- on disk -----------------------------------------------------------------------------------------------------------


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None if there is none. Raises `JournalError` if it cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    return to_record(read_json(path, error=JournalError), where=str(path))


def to_record(content: object, *, where: str) -> Record:
    """The record that a JSON value holds. Raises `JournalError` if it holds none."""
    try:
        match content:
            case {"stamp": dict() as stamp, "changes": list() as listed, **more}:
                changes = tuple(Change(int(row["round"]), str(row["key"]), row["was"], row["now"]) for row in listed)
                if (finished := more.get("finished")) in (True, False, None):
                    return Record(stamp, changes, finished)
    except (KeyError, TypeError, ValueError):
        pass  # a change without its fields is as bad as no list of changes
    raise JournalError(
        f"{where}: expected the settings of a run (stamp and changes), got other fields: restore it from a copy, or "
        "remove it and continue with other versions allowed, which compares nothing"
    )


def save_record(folder: Path, record: Record) -> None:
    """Write the record. Raises `SavingError` if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    save_text(folder / FILE, json.dumps(record.to_dict(), ensure_ascii=False, indent=1) + "\n")


def show_changes(changes: Sequence[Change]) -> str:
    """What changed, in one line."""
    was = {change.key: change.was for change in changes}
    return show_differences(was, {change.key: change.now for change in changes}, was)
