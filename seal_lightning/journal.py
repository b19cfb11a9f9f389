"""The journal: every finished unit of work is on disk before the next one starts.

One JSON Lines file per phase, round and rank. The first line is a stamp of what produced it (configuration and policy);
each further line is one rollout with its unit's number and size, and a unit is written and fsynced as a whole. A unit
counts only when all its lines can be read, so a torn tail costs one unit. A journal with another stamp is refused:
rollouts of another policy or configuration must never be mixed in.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from seal_lightning.errors import JournalError, StaleJournalError
from seal_lightning.types import Rollout

_TUPLES = ("questions", "baseline_answers", "answers", "baseline_scores", "scores")
_FIELDS = tuple(field.name for field in fields(Rollout))
_NUMBER = int | float
# What a line must hold to be computed with, and what its lists consist of.
_SCALARS = {
    **dict.fromkeys(["unit", "of", "round", "edit_index", "repeat", "seed"], int),
    **dict.fromkeys(["context_id", "prompt", "text", "status"], str),
    **dict.fromkeys(["baseline", "score", "gain"], _NUMBER),
    "reward": _NUMBER | None,
}
_LISTS = {**dict.fromkeys(_TUPLES, str), "golds": list, "baseline_scores": _NUMBER, "scores": _NUMBER}
_OPTIONAL = ("terms", "retention", "tokens", "seconds", "usage")  # with numbers, too


def rollout_to_dict(rollout: Rollout) -> dict[str, Any]:
    """The JSON form of a rollout, one key a field."""
    row = asdict(rollout)
    if not rollout.dropped:
        del row["dropped"]  # without a race, a journal is what it was before there were races
    return row


def rollout_from_dict(row: Mapping[str, Any]) -> Rollout:
    """The rollout of one journal line; unknown keys are ignored so that later versions can add some."""
    values = {name: row[name] for name in _FIELDS if name in row}
    values.update({name: tuple(values[name]) for name in _TUPLES if name in values})
    values["golds"] = tuple(tuple(golds) for golds in values.get("golds", ()))
    return Rollout(**values)


class Journal:
    """The rollouts of one phase and round, kept by unit.

    Args:
        folder: Where the files lie; made when missing.
        name: Phase and round, for example `train-000`.
        stamp: What the rollouts depend on, JSON values by name. Compared on opening, key by key.
        rank: Of the process that writes. All ranks' files are read.
        folder_option: What the user chose the folder with, for messages.
        resume_option: What a run is resumed with, for messages.

    Raises:
        StaleJournalError: A file has another stamp.
        JournalError: A file cannot be read or written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        *,
        stamp: Mapping[str, Any],
        rank: int = 0,
        folder_option: str = "--trainer.default_root_dir",
        resume_option: str = "--ckpt_path last",
    ) -> None:
        self.folder = Path(folder)
        self.name = name
        self.folder_option = folder_option
        self.resume_option = resume_option
        self.stamp = json.loads(json.dumps(stamp))
        self.path = self.folder / f"{name}.rank-{rank}.jsonl"
        self._units: dict[int, list[Rollout]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.folder.glob(f"{name}.rank-*.jsonl")):
                self._read(path)
        except OSError as error:
            raise JournalError(f"journal {self.folder}: {error.strerror or error}; check the run folder") from error

    @property
    def units(self) -> Mapping[int, Sequence[Rollout]]:
        """The finished units by number."""
        return self._units

    def append(self, unit: int, rollouts: Sequence[Rollout]) -> None:
        """Write a finished unit and return once it is on disk."""
        rows: list[dict[str, Any]] = [
            {"unit": unit, "of": len(rollouts), **rollout_to_dict(rollout)} for rollout in rollouts
        ]
        if not self.path.exists():
            rows.insert(0, {"stamp": self.stamp})
        self._write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._units[unit] = list(rollouts)

    def _write(self, data: bytes) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._cut(size)
            raise JournalError(
                f"journal {self.path}: {error.strerror or error}; finished units are kept, make room and resume with "
                f"{self.resume_option}"
            ) from error

    def _cut(self, size: int) -> None:
        """Drop what a failed write left behind, and the file where nothing was there before."""
        if size:
            os.truncate(self.path, size)
        else:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data) and path == self.path:
            self._cut(len(whole))
        rows = list(_rows(path, whole))
        if not rows:
            return
        self._check_stamp(path, rows[0].get("stamp"))
        self._units.update(_whole_units(rows[1:]))

    def _check_stamp(self, path: Path, stamp: Any) -> None:
        if not isinstance(stamp, dict):
            raise JournalError(f"journal {path}: its first line is no stamp; move the file away and run again")
        changed = sorted(key for key in {*stamp, *self.stamp} if stamp.get(key) != self.stamp.get(key))
        if changed:
            raise StaleJournalError(
                f"journal {path}: written with other settings ({_differences(stamp, self.stamp, changed)}); choose "
                f"another {self.folder_option}, or go back to those settings. Nothing was overwritten"
            )


def read_rollouts(folder: str | os.PathLike[str], name: str) -> list[Rollout]:
    """The rollouts of one phase and round by unit, whatever their stamp; none where there is no such journal.

    Args:
        folder: A run's journal folder.
        name: Phase and round, for example `validation-001`.

    Raises:
        JournalError: A line is not JSON.
    """
    units: dict[int, list[Rollout]] = {}
    for path in sorted(Path(folder).glob(f"{name}.rank-*.jsonl")):
        data = path.read_bytes()
        units |= _whole_units([row for row in _rows(path, data[: data.rfind(b"\n") + 1]) if "unit" in row])
    return [rollout for unit in sorted(units) for rollout in units[unit]]


def read_units(path: Path, data: bytes) -> dict[int, list[Rollout]]:
    """The finished units in the content of a journal file, whatever its stamp; a torn tail is left out.

    Args:
        path: Whose content it is, for messages.
        data: The content, unpacked.

    Raises:
        JournalError: The first line is no stamp, or a further one no rollout.
    """
    rows = list(_rows(path, data[: data.rfind(b"\n") + 1]))
    if not rows:
        return {}
    if not isinstance(rows[0], dict) or "stamp" not in rows[0]:
        raise JournalError(f"journal {path}, line 1: expected the stamp of a journal, got none; check the path")
    for number, row in enumerate(rows[1:], start=2):
        if fault := _fault(row):
            raise JournalError(f"journal {path}, line {number}: {fault}; repair the line")
    return _whole_units(rows[1:])


def unfinished_units(path: Path, data: bytes) -> int:
    """How many units in the content of a journal file were begun and are not whole, as after a crash.

    Raises:
        JournalError: A line is not JSON.
    """
    end = data.rfind(b"\n") + 1
    rows = [row for row in _rows(path, data[:end]) if "unit" in row]
    begun, whole = {row["unit"] for row in rows}, _whole_units(rows)
    new = end < len(data) and (not rows or rows[-1]["unit"] in whole)  # the torn line is the first of its unit
    return len(begun - whole.keys()) + new


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


def _whole_units(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Rollout]]:
    """The units of which every rollout is there."""
    by_unit: dict[int, list[Rollout]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(rollout_from_dict(row))
    sizes = {row["unit"]: row["of"] for row in rows}
    # A torn unit that was run again after a resume stands twice in part: its last `of` lines are the whole one.
    return {unit: rollouts[-sizes[unit] :] for unit, rollouts in by_unit.items() if len(rollouts) >= sizes[unit]}


def _fault(row: Any) -> str:
    """Why a row is no rollout of a unit, in a few words; empty where it is one."""
    if not isinstance(row, dict):
        return f"expected a rollout, got {_short(row)}"
    for name in (*_SCALARS, *_LISTS):
        if name not in row:
            return f"field {name} is missing"
    for name, kind in _SCALARS.items():
        if not isinstance(row[name], kind):
            return f"field {name} cannot be {_short(row[name])}"
    for name, kind in _LISTS.items():
        if not isinstance(row[name], list) or not all(isinstance(item, kind) for item in row[name]):
            return f"field {name} cannot be {_short(row[name])}"
    for name in (*_SCALARS, *_LISTS, *_OPTIONAL):
        if not _is_finite(row.get(name)):
            return f"field {name} cannot be {_short(row[name])}: it must be finite"
    return _misaligned(row)


def _is_finite(value: Any) -> bool:
    """Whether no number in a JSON value is NaN or infinite."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _misaligned(row: Mapping[str, Any]) -> str:
    """Answers and scores are there for every query, or not at all (a rejected edit)."""
    queries = len(row["questions"])
    for name in ("golds", "baseline_answers", "baseline_scores", "answers", "scores"):
        if len(row[name]) not in (queries, 0):
            return f"field {name} must be as long as questions"
    if not row["baseline_scores"] and not row["scores"]:
        return ""  # answered, and scored by nobody
    return "" if len(row["answers"]) == len(row["scores"]) else "fields answers and scores must be equally long"


def _rows(path: Path, data: bytes) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise JournalError(
                f"journal {path}, line {number}: not JSON ({error}); repair the line or move the file away"
            ) from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = [f"{key}: was {_short(old.get(key))}, is {_short(new.get(key))}" for key in keys[:3]]
    return "; ".join(shown + ([f"and {len(keys) - 3} more"] if len(keys) > 3 else []))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
