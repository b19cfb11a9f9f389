"""The lines of a journal, checked: a stamp, rollouts by unit, and which edits were kept.

A resume, a report and a replay read through here, and say the same one line about the same damage. A unit counts only
when all its lines stand together: `unit` is its number, `of` how many there are, `part` which of them (from 0).
Journals of earlier versions lack `part`; there a line's context, edit and repeat tell it apart. A crash tears off the
end of a file, and costs one unit; anything else that is wrong is an error with file, line and field (`fields.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from seal_lightning.errors import JournalError
from seal_lightning.files.bounded import parse_json
from seal_lightning.records.fields import TUPLES, fault_of, is_text, is_whole
from seal_lightning.stamps.values import short
from seal_lightning.types import Json, JsonObject, Rollout

KEPT = "kept"  # the first key of the line with the kept edits
LONGEST = 64 << 20  # bytes of a line
REPAIR = "repair the line, or remove all lines of its unit, which is then run again"
RESTORE = "bring it back from a copy, or move the file away and run its units again"
_FIELDS = tuple(each.name for each in fields(Rollout))

Edits: TypeAlias = tuple[tuple[str, int], ...]  # by their context's id and their index


@dataclass(frozen=True, slots=True)
class Content:
    """What a journal file holds.

    Attributes:
        stamp: What it was written with; None where nothing is written yet.
        units: The whole units by number.
        lines: The line on which each of them begins.
        torn: Number of units that were begun and are not whole.
        kept: The edits that the filter has kept, by round; without the rounds that have not come so far.
    """

    stamp: JsonObject | None = None
    units: Mapping[int, list[Rollout]] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)
    torn: int = 0
    kept: Mapping[int, Edits] = field(default_factory=dict)


def rollout_to_dict(rollout: Rollout) -> JsonObject:
    """The JSON form of a rollout, one key a field."""
    row = asdict(rollout)
    for name in ("dropped", "thoughts", "left_out", "title", "passage_digest", "edit_kind"):  # empty in many runs
        if not row[name]:
            del row[name]
    if row["similarity"] is None:
        del row["similarity"]
    return row


def rollout_from_dict(row: Mapping[str, Json]) -> Rollout:
    """The rollout of one journal line; unknown keys are ignored so that later versions can add some."""
    values: dict[str, Any] = {name: row[name] for name in _FIELDS if name in row}
    values.update({name: tuple(values[name]) for name in TUPLES if name in values})
    values["golds"] = tuple(tuple(golds) for golds in values.get("golds", ()))
    return Rollout(**values)


# -- a file ------------------------------------------------------------------------------------------------------------


def read_content(path: Path, data: bytes) -> Content:
    """The content of a journal file; a torn tail is left out.

    Args:
        path: Whose content it is, for messages.
        data: The content, unpacked.

    Raises:
        JournalError: The first line is not a stamp, a further one not a rollout, or the units contradict each other.
    """
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    if not lines:
        return Content(torn=int(bool(data)))
    first: Any = _json(path, 1, lines[0])
    if not isinstance(first, dict) or not isinstance(first.get("stamp"), dict):
        raise JournalError(f"journal {path}, line 1: expected the stamp of a journal, got none; {RESTORE}")
    blocks: list[_Block] = []
    kept: dict[int, Edits] = {}
    for number, line in enumerate(lines[1:], start=2):
        row: Any = _json(path, number, line)
        if isinstance(row, dict) and KEPT in row:
            kept |= _kept_edits(path, number, row)
            continue
        if reason := fault_of(row):
            raise JournalError(f"journal {path}, line {number}: {reason}; {REPAIR}")
        kept.pop(row["round"], None)  # chosen before this unit was there
        if not blocks or not blocks[-1].take(row):
            blocks.append(_Block(path, number, row))
    units: dict[int, list[Rollout]] = {}
    starts: dict[int, int] = {}
    for block in blocks:
        if not block.is_whole:
            continue
        if block.unit in units and not same_unit(units[block.unit], block.rollouts):
            raise JournalError(
                f"journal {path}, line {block.line}: unit {block.unit} stands here and from line {starts[block.unit]} "
                "on with other rollouts, so two runs have written them; remove the lines of one of the two"
            )
        units.setdefault(block.unit, block.rollouts)
        starts.setdefault(block.unit, block.line)
    torn = {block.unit for block in blocks} - units.keys()
    tail = data[end:]
    new = bool(tail) and (not blocks or blocks[-1].is_whole) and not tail.startswith(f'{{"{KEPT}'.encode())
    return Content(first["stamp"], units, starts, len(torn) + new, kept)  # new: the torn line is the first of its unit


def _kept_edits(path: Path, number: int, row: Mapping[str, Any]) -> dict[int, Edits]:
    edits, round = row[KEPT], row.get("round", "")
    pairs = isinstance(edits, list) and all(isinstance(edit, list) and len(edit) == 2 for edit in edits)
    if not pairs or not is_whole(round) or not all(is_text(name) and is_whole(index) for name, index in edits):
        raise JournalError(
            f"journal {path}, line {number}: expected kept edits as pairs of a context's id and a number, got "
            f"{short(edits)}; remove the line, and what was kept is not known"
        )
    return {round: tuple((context, index) for context, index in edits)}


class _Block:
    """Lines of one unit that follow each other."""

    def __init__(self, path: Path, line: int, row: dict[str, Any]) -> None:
        self.line, self.unit, self.of = line, row["unit"], row["of"]
        self.rollouts = [rollout_from_dict(row)]
        self._keys = {_key(row)}
        if row.get("part", 0) != 0:
            raise JournalError(
                f"journal {path}, line {line}: field part is {row['part']} where a unit begins, expected 0: lines of "
                f"unit {self.unit} are missing; remove the rest of its lines, and it is run again"
            )

    @property
    def is_whole(self) -> bool:
        return len(self.rollouts) == self.of

    def take(self, row: JsonObject) -> bool:
        """Add the next line; False where it does not belong to this unit, or begins it once more."""
        new = row["part"] == len(self.rollouts) if "part" in row else _key(row) not in self._keys
        if self.is_whole or not new or (row["unit"], row["of"]) != (self.unit, self.of):
            return False
        self.rollouts.append(rollout_from_dict(row))
        self._keys.add(_key(row))
        return True


def _key(row: JsonObject) -> tuple[Json, ...]:
    return row["context_id"], row.get("kind", "edit"), row["edit_index"], row["repeat"]


def same_unit(one: Sequence[Rollout], other: Sequence[Rollout]) -> bool:
    """Whether two units are the same work, whatever it took and cost; earlier versions wrote no titles or digests."""
    works = [
        [replace(rollout, seconds={}, usage={}, title="", passage_digest="", similarity=None) for rollout in unit]
        for unit in (one, other)
    ]
    return works[0] == works[1]


def add_units(units: dict[int, list[Rollout]], path: Path, more: Mapping[int, list[Rollout]]) -> None:
    """Add the units of another file of the same journal.

    Raises:
        JournalError: A unit is there already, with other rollouts.
    """
    for unit, rollouts in more.items():
        if unit in units and not same_unit(units[unit], rollouts):
            raise JournalError(
                f"journal {path}: unit {unit} stands in another rank's file of this journal too, with other rollouts, "
                "so two runs have written them; move the files of one of them away"
            )
        units.setdefault(unit, rollouts)


# -- a line ------------------------------------------------------------------------------------------------------------


def _json(path: Path, number: int, line: bytes) -> Json:
    where = f"journal {path}, line {number}"
    if len(line) > LONGEST:
        raise JournalError(f"{where}: {len(line) >> 20} MiB long, expected at most {LONGEST >> 20}; {REPAIR}")
    if b"\x00" in line:
        raise JournalError(
            f"{where}: holds NUL bytes, as a failure of power leaves them; remove the line and the rest of its unit, "
            "which is then run again"
        )
    if line.startswith(b"\xef\xbb\xbf"):
        raise JournalError(f"{where}: begins with a byte order mark; save the file as UTF-8 without one")
    try:
        return parse_json(line.decode())
    except UnicodeDecodeError as error:
        raise JournalError(f"{where}: not UTF-8 at byte {error.start + 1}; {REPAIR}") from error
    except json.JSONDecodeError as error:
        raise JournalError(f"{where}: not JSON ({error.msg} at column {error.colno}); {REPAIR}") from error
