"""The journal: every finished unit of work is on disk before the next one starts.

One JSON Lines file per phase, round and rank. The first line is a stamp of what produced it (configuration and policy);
each further line is one rollout with its unit's number and size, and a unit is written and fsynced as a whole. A unit
counts only when all its lines can be read, so a torn tail costs one unit. Once the filter has chosen, rank 0 adds a
line with the kept edits. A journal with another stamp is refused: rollouts of another policy or configuration must
never be mixed in. How its lines are checked: `lines.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from seal_lightning.errors import JournalError, StaleJournalError, reason_of
from seal_lightning.files.bounded import read_bytes
from seal_lightning.files.saving import NOT_HERE
from seal_lightning.records.lines import KEPT, RESTORE, Content, Edits, add_units, read_content, rollout_to_dict
from seal_lightning.stamps.values import changed_keys, show_differences
from seal_lightning.types import EditOutcome, JsonObject, Rollout


class Journal:
    """The rollouts of one phase and round, kept by unit.

    Args:
        folder: Folder of the files; made if it is missing.
        name: Phase and round, for example `train-000`.
        stamp: What the rollouts depend on, as JSON values by name; compared key by key on opening.
        rank: Rank of the process that writes; the files of all ranks are read.
        folder_option: Option that chose the folder, for messages.
        resume_option: Option that resumes a run, for messages.
        may_differ: Whether a key of the stamp may differ from that in the files.
        contexts: The ids of each unit's contexts; if they are given, units that the data does not have are refused.
        round: Round of every rollout; if it is given, rollouts of other rounds are refused.

    Raises:
        StaleJournalError: A file has another stamp.
        JournalError: A file cannot be read or written, or is damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        *,
        stamp: Mapping[str, object],
        rank: int = 0,
        folder_option: str = "--trainer.default_root_dir",
        resume_option: str = "--ckpt_path last",
        may_differ: Callable[[str], bool] = lambda key: False,
        contexts: Sequence[Sequence[str]] | None = None,
        round: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.name = name
        self.folder_option = folder_option
        self.resume_option = resume_option
        self.may_differ = may_differ
        self.contexts = contexts
        self.round = round
        self.stamp = json.loads(json.dumps(stamp))
        self.path = self.folder / f"{name}.rank-{rank}.jsonl"
        self._units: dict[int, list[Rollout]] = {}
        self._kept: dict[int, Edits] = {}  # in this rank's own file
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.folder.glob(f"{name}.rank-*.jsonl")):
                if path.is_symlink():  # what it leads to would be written to, and cut
                    raise JournalError(f"journal {path}: expected a file, got a link: move it away")
                self._read(path)
        except OSError as error:
            raise JournalError(f"journal {self.folder}: {reason_of(error)}; check the run folder") from error

    @property
    def units(self) -> Mapping[int, Sequence[Rollout]]:
        """The finished units by number."""
        return self._units

    def append(self, unit: int, rollouts: Sequence[Rollout]) -> None:
        """Write a finished unit and return once it is on disk."""
        rows: list[JsonObject] = [
            {"unit": unit, "of": len(rollouts), "part": part, **rollout_to_dict(rollout)}
            for part, rollout in enumerate(rollouts)
        ]
        self._write(rows)
        self._units[unit] = list(rollouts)
        self._kept.pop(rollouts[0].round if rollouts else -1, None)

    def keep(self, kept: Sequence[EditOutcome | Rollout], *, round: int) -> None:
        """Write which edits of a round's units the filter has kept, once all units are there."""
        edits = tuple((edit.context_id, edit.edit_index) for edit in kept)
        if self._kept.get(round) != edits:  # else written before a resume
            self._write([{KEPT: edits, "round": round}])
            self._kept[round] = edits

    def _write(self, rows: Sequence[Mapping[str, object]]) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        rows = rows if size else [{"stamp": self.stamp}, *rows]  # also where a crash left an empty file
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._cut(size)
            said = f"journal {self.path}: {reason_of(error)}"
            if remedy := NOT_HERE.get(error.errno or 0):
                raise JournalError(f"{said}; {remedy} and resume with {self.resume_option}") from error
            raise JournalError(
                f"{said}; finished units are kept, make room and resume with {self.resume_option}"
            ) from error

    def _cut(self, size: int) -> None:
        """Drop what a failed write left behind, and the file where nothing was there before."""
        if size:
            os.truncate(self.path, size)
        else:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        data = _bytes_of(path)
        content = read_content(path, data)
        if content.stamp is not None:
            changed = [key for key in changed_keys(content.stamp, self.stamp) if not self.may_differ(key)]
            if changed:
                raise StaleJournalError(
                    f"journal {path}: written with other settings ("
                    f"{show_differences(content.stamp, self.stamp, changed)}); choose another "
                    f"{self.folder_option}, or go back to those settings. Nothing was overwritten"
                )
            self._check_plan(path, content)
            add_units(self._units, path, content.units)
        if path == self.path:
            self._kept = dict(content.kept)
        end = data.rfind(b"\n") + 1
        if end < len(data) and path == self.path:
            self._cut(end)

    def _check_plan(self, path: Path, content: Content) -> None:
        """The units are those of the data, which the stamp promises."""
        for unit, rollouts in content.units.items():
            where = f"journal {path}, line {content.lines[unit]}"
            if self.contexts is not None and unit >= len(self.contexts):
                raise JournalError(
                    f"{where}: field unit is {unit}, and the data has {len(self.contexts)} units (from 0); {RESTORE}"
                )
            about = {rollout.context_id for rollout in rollouts}
            if self.contexts is not None and about != (expected := set(self.contexts[unit])):
                raise JournalError(
                    f"{where}: field context_id of unit {unit} is {_listed(about)}, expected {_listed(expected)}; "
                    f"{RESTORE}"
                )
            if wrong := [one.round for one in rollouts if self.round not in (None, one.round)]:
                raise JournalError(f"{where}: field round is {wrong[0]}, expected {self.round}; {RESTORE}")


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown + (["..."] if len(names) > 3 else []))


def _bytes_of(path: Path) -> bytes:
    """The content of a file of a journal.

    Raises:
        JournalError: The file is a folder, a pipe or too large, or cannot be read.
    """
    try:
        return read_bytes(path, error=JournalError)
    except JournalError as error:
        raise JournalError(f"journal {error}") from error


# -- whatever their stamp ----------------------------------------------------------------------------------------------


def read_rollouts(folder: str | os.PathLike[str], name: str) -> list[Rollout]:
    """The rollouts of one phase and round by unit, whatever their stamp; none if the journal does not exist.

    Args:
        folder: A run's journal folder.
        name: Phase and round, for example `validation-001`.

    Raises:
        JournalError: A file cannot be read or is damaged.
    """
    units: dict[int, list[Rollout]] = {}
    for path in sorted(Path(folder).glob(f"{name}.rank-*.jsonl")):
        add_units(units, path, read_content(path, _bytes_of(path)).units)
    return [rollout for unit in sorted(units) for rollout in units[unit]]


def unfinished_units(path: Path, data: bytes) -> int:
    """How many units in the content of a journal file were begun and are not whole, as after a crash.

    Raises:
        JournalError: The journal is damaged.
    """
    return read_content(path, data).torn


def is_begun(folder: str | os.PathLike[str], pattern: str) -> bool:
    """Whether a file of a journal folder that fits the pattern has a whole line."""
    return any(b"\n" in _bytes_of(path) for path in sorted(Path(folder).glob(pattern)))


def read_fit(run: str | os.PathLike[str]) -> list[Rollout]:
    """All rollouts of a fit, of every round and of its validations."""
    folder = Path(run) / "journal"
    names = {path.name.partition(".rank-")[0] for path in folder.glob("*-[0-9][0-9][0-9].rank-*.jsonl")}
    return [rollout for name in sorted(names) for rollout in read_rollouts(folder, name)]


def read_validations(run: str | os.PathLike[str]) -> dict[int, list[Rollout]]:
    """The validation rollouts in a run's folder by the number of rounds before them."""
    folder = Path(run) / "journal"
    numbers = {int(path.name[len("validation-") :][:3]) for path in folder.glob("validation-[0-9][0-9][0-9].*")}
    found = {number: read_rollouts(folder, f"validation-{number:03d}") for number in sorted(numbers)}
    return {number: rollouts for number, rollouts in found.items() if rollouts}
