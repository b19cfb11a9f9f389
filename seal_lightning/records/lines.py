"""The lines of a journal, checked: a stamp, rollouts by unit, and which edits were kept; every field has its type.

A resume, a report and a replay read through here, and say the same one line about the same damage. A unit counts only
when all its lines stand together: `unit` its number, `of` how many there are, `part` which of them (from 0; journals
of earlier versions have none, there a line's context, edit and repeat tell). What a crash tears off is the end of a
file, and costs one unit; anything else that is wrong is an error with file, line and field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

from seal_lightning.errors import JournalError
from seal_lightning.files.bounded import parse_json
from seal_lightning.stamps.values import short
from seal_lightning.types import EditOutcome, Kind, Rollout, Status

KEPT = "kept"  # the first key of the line with the kept edits
LONGEST = 64 << 20  # bytes of a line
REPAIR = "repair the line, or remove all lines of its unit, which is then run again"
RESTORE = "bring it back from a copy, or move the file away and run its units again"
_FIELDS = tuple(one.name for one in fields(Rollout))
_TUPLES = ("questions", "baseline_answers", "answers", "baseline_scores", "scores")
_WHOLE = {"unit": 0, "of": 1, "part": 0, "round": 0, "repeat": 0, "edit_index": -1, "steps": 0}  # at least
_TEXTS = ("context_id", "prompt", "text", "status", "reason", "kind", "dropped", "title", "passage_digest")
_SHARES = ("baseline", "score")  # in [0, 1], or 0 where nothing was scored
_LARGEST = 1e100  # numbers of a rollout
_NUMBERS = ("gain", "reward", "retention")
_COUNTS = ("terms", "thoughts", "tokens", "seconds", "left_out")  # numbers by name
_ALLOWED = {"status": get_args(Status), "kind": get_args(Kind)}
_NEEDED = ("unit", "of", "round", "edit_index", "repeat", "seed", "context_id", "prompt", "text", "status")
_NEEDED += ("baseline", "score", "gain", "reward", *_TUPLES, "golds")


Edits: TypeAlias = tuple[tuple[str, int], ...]  # by their context's id and their index


@dataclass(frozen=True, slots=True)
class Content:
    """What a journal file holds.

    Attributes:
        stamp: What it was written with; None where nothing is written yet.
        units: The whole units by number.
        lines: The line on which each of them begins.
        torn: How many units were begun and are not whole.
        kept: The edits that the filter has kept, by round; without the rounds that have not come so far.
    """

    stamp: Mapping[str, Any] | None = None
    units: Mapping[int, list[Rollout]] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)
    torn: int = 0
    kept: Mapping[int, Edits] = field(default_factory=dict)


def rollout_to_dict(rollout: Rollout) -> dict[str, Any]:
    """The JSON form of a rollout, one key a field."""
    row = asdict(rollout)
    for name in ("dropped", "thoughts", "left_out", "title", "passage_digest"):  # empty in many runs
        if not row[name]:
            del row[name]
    return row


def rollout_from_dict(row: Mapping[str, Any]) -> Rollout:
    """The rollout of one journal line; unknown keys are ignored so that later versions can add some."""
    values = {name: row[name] for name in _FIELDS if name in row}
    values.update({name: tuple(values[name]) for name in _TUPLES if name in values})
    values["golds"] = tuple(tuple(golds) for golds in values.get("golds", ()))
    return Rollout(**values)


# -- a file ------------------------------------------------------------------------------------------------------------


def read_content(path: Path, data: bytes) -> Content:
    """The content of a journal file; a torn tail is left out.

    Args:
        path: Whose content it is, for messages.
        data: The content, unpacked.

    Raises:
        JournalError: The first line is no stamp, a further one no rollout, or the units contradict each other.
    """
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    if not lines:
        return Content(torn=int(bool(data)))
    first = _json(path, 1, lines[0])
    if not isinstance(first, dict) or not isinstance(first.get("stamp"), dict):
        raise JournalError(f"journal {path}, line 1: expected the stamp of a journal, got none; {RESTORE}")
    blocks: list[_Block] = []
    kept: dict[int, Edits] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _json(path, number, line)
        if isinstance(row, dict) and KEPT in row:
            kept |= _kept_edits(path, number, row)
            continue
        if reason := _fault(row):
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


def kept_row(kept: Iterable[EditOutcome | Rollout], *, round: int) -> dict[str, object]:
    """The line that says which edits a round's filter has kept."""
    return {KEPT: [[edit.context_id, edit.edit_index] for edit in kept], "round": round}


def _kept_edits(path: Path, number: int, row: Mapping[str, Any]) -> dict[int, Edits]:
    edits, round = row[KEPT], row.get("round", "")
    if not _is_whole(round) or not isinstance(edits, list) or not all(map(_is_edit, edits)):
        raise JournalError(
            f"journal {path}, line {number}: expected kept edits as pairs of a context's id and a number, got "
            f"{short(edits)}; remove the line, and what was kept is not known"
        )
    return {round: tuple((context, index) for context, index in edits)}


def _is_edit(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_text(value[0]) and _is_whole(value[1])


class _Block:
    """Lines of one unit that follow each other."""

    def __init__(self, path: Path, line: int, row: Mapping[str, Any]) -> None:
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

    def take(self, row: Mapping[str, Any]) -> bool:
        """Add the next line; False where it does not belong to this unit, or begins it once more."""
        new = row["part"] == len(self.rollouts) if "part" in row else _key(row) not in self._keys
        if self.is_whole or not new or (row["unit"], row["of"]) != (self.unit, self.of):
            return False
        self.rollouts.append(rollout_from_dict(row))
        self._keys.add(_key(row))
        return True


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["context_id"], row.get("kind", "edit"), row["edit_index"], row["repeat"]


def same_unit(one: Sequence[Rollout], other: Sequence[Rollout]) -> bool:
    """Whether two units are the same work: but for how long it took, what it cost and contexts' titles."""
    return list(map(_work, one)) == list(map(_work, other))


def _work(rollout: Rollout) -> Rollout:
    return replace(
        rollout, seconds={}, usage={}, title="", passage_digest=""
    )  # earlier versions wrote neither of these


def add_units(units: dict[int, list[Rollout]], path: Path, more: Mapping[int, list[Rollout]]) -> None:
    """Add the units of another file of the same journal.

    Raises:
        JournalError: It has a unit that is there already, with other rollouts.
    """
    for unit, rollouts in more.items():
        if unit in units and not same_unit(units[unit], rollouts):
            raise JournalError(
                f"journal {path}: unit {unit} stands in another rank's file of this journal too, with other rollouts, "
                "so two runs have written them; move the files of one of them away"
            )
        units.setdefault(unit, rollouts)


# -- a line ------------------------------------------------------------------------------------------------------------


def _json(path: Path, number: int, line: bytes) -> Any:
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


def _fault(row: Any) -> str:
    """Why a row is no rollout of a unit, in a few words; empty where it is one."""
    if not isinstance(row, dict):
        return f"expected a rollout, got {short(row)}"
    if "stamp" in row:
        return "expected a rollout, got a second stamp, so two runs have written into this file"
    for name in _NEEDED:
        if name not in row:
            return f"field {name} is missing"
    for name, value in row.items():
        if reason := _wrong(name, value):
            return f"field {name} cannot be {short(value)}{reason}"
    if row.get("part", 0) >= row["of"]:
        return f"field part must be below of, which is {row['of']}, got {row['part']}"
    return _misaligned(row)


def _wrong(name: str, value: Any) -> str:
    """What is wrong with a field's value, to go on with after it; empty where nothing is. Unknown fields are fine."""
    if not _is_finite(value):
        return ": it must be finite"
    if not _is_moderate(value):
        return f": it must be below {_LARGEST:g}"
    if name == "seed":
        return "" if _is_whole(value) else ": it must be a whole number"
    if name in _WHOLE:
        return "" if _is_whole(value) and value >= _WHOLE[name] else f": it must be {_WHOLE[name]} or more"
    if name in _TEXTS:
        allowed = _ALLOWED.get(name)
        if not isinstance(value, str):
            return ": it must be a text"
        return "" if allowed is None or value in allowed else f": it must be one of {', '.join(allowed)}"
    if name in _SHARES:
        return "" if _is_share(value) else ": it must be from 0 to 1"
    if name in _NUMBERS:
        return "" if _is_number(value) or (value is None and name != "gain") else ": it must be a number"
    if name in _TUPLES:
        right = _is_share if name.endswith("scores") else _is_text
        what = "numbers from 0 to 1" if name.endswith("scores") else "texts"
        return "" if isinstance(value, list) and all(map(right, value)) else f": it must be a list of {what}"
    return _wrong_nested(name, value)


def _wrong_nested(name: str, value: Any) -> str:
    if name == "golds":
        right = isinstance(value, list) and all(isinstance(one, list) and all(map(_is_text, one)) for one in value)
        return "" if right else ": it must be lists of texts"
    if name in ("asked", "applied"):
        return "" if isinstance(value, dict) else ": it must be an object"
    if name in _COUNTS:
        return "" if _are_numbers(value) else ": it must be numbers by name"
    if name == "usage":
        return "" if isinstance(value, dict) and all(map(_are_numbers, value.values())) else ": it must be counts"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_finite(value: Any) -> bool:
    """Whether no number in a JSON value is NaN or infinite."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_moderate(value: Any) -> bool:
    """Whether no number in a JSON value is so large that sums and means of them would not be finite."""
    if isinstance(value, dict | list):
        return all(map(_is_moderate, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or abs(value) < _LARGEST


def _misaligned(row: Mapping[str, Any]) -> str:
    """Answers and scores are there for every query, or not at all (a rejected edit)."""
    queries = len(row["questions"])
    for name in ("golds", "baseline_answers", "baseline_scores", "answers", "scores"):
        if len(row[name]) not in (queries, 0):
            return f"field {name} must be as long as questions"
    if not row["baseline_scores"] and not row["scores"]:
        return ""  # answered, and scored by nobody
    return "" if len(row["answers"]) == len(row["scores"]) else "fields answers and scores must be equally long"
