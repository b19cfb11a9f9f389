"""Where puzzles of ARC lie: files in four forms, and folders of such files as repositories and Kaggle have them.

    a puzzle             {"train": [pair, ...], "test": [pair, ...]}       ARC-AGI-1 and 2, ConceptARC, Mini-ARC
    pairs of one rule    [{"input": grid, "output": grid}, ...]            re-arc
    puzzles by id        {"007bbfb7": a puzzle or pairs, ...}              Kaggle's challenges
    puzzles in rows      [{"id": "007bbfb7", "train": ...}, ...]           data sets on the hub, JSON Lines

Only forms are looked at here; what is in a puzzle is checked by the reader (`arc.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from seal_lightning.errors import DataError, check_count
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.contained import contained
from seal_lightning.files.rows import Row, read_rows

log = logging.getLogger(__name__)

SPLITS = {"train", "training", "eval", "evaluation", "validation", "dev", "test", "testing"}
PEEKED = 8  # files of a folder that are opened to see whether it holds puzzles


@dataclass(frozen=True, slots=True)
class Dealt:
    """How many pairs of a longer list become a puzzle; the first ones do, in the order of the file."""

    demonstrations: int
    tests: int

    def __post_init__(self) -> None:
        check_count("demonstrations", self.demonstrations)
        check_count("tests", self.tests)

    def puzzle(self, pairs: Row) -> Row:
        """The puzzle that the list under `pairs` is dealt out as."""
        listed = pairs.list("pairs")
        if len(listed) < self.demonstrations + self.tests:
            raise DataError(
                f"{pairs.file}: expected {self.demonstrations} demonstrations and {self.tests} tests, got {len(listed)}"
                " pairs: lower demonstrations or tests"
            )
        values = {"train": listed[: self.demonstrations], "test": listed[self.demonstrations :][: self.tests]}
        return replace(pairs, values=values)


@dataclass(frozen=True, slots=True)
class _File:
    """A file of puzzles: its path below the folder that was named, and the puzzles by id, as they were written."""

    path: Path
    within: Path
    puzzles: Mapping[str, Row]
    by_id: bool


def puzzles_at(path: Path, dealt: Dealt, *, split: str | None = None) -> tuple[dict[str, Row], Path | None]:
    """The puzzles of a file or a folder by id, and the file of solutions that belongs to them.

    Args:
        path: The file or folder; of a folder all files below it are read, hidden ones excepted.
        dealt: For lists of pairs.
        split: Read only sub-folders, or files of puzzles by id, with this name.

    Raises:
        DataError: There are no puzzles, or it is not clear which ones are meant.
    """
    if path.is_dir():
        files = _of_folder(path, split)
    elif split is not None:
        raise DataError(f"{path}: expected a folder where split is set, got a file: set split to null")
    else:
        files = [_File(path, Path(path.name), *_forms(one_object(path), path.stem))]
    many = [file for file in files if file.by_id]
    if len(many) > 1:
        names = ", ".join(str(file.within) for file in many)
        raise DataError(f"{path}: expected one file of puzzles by id, got {names}: name one of them, or set split")
    puzzles = {id: _dealt(row, dealt) for id, row in _by_id(files).items()}
    _say_left_out(path, list(_by_id(files).values()), dealt)
    return puzzles, _solutions_beside(many[0].path) if many else None


def holds_puzzles(folder: Path) -> bool:
    """Whether a folder is one of puzzles: some of its first .json files hold some."""
    for file in islice(_json_files(folder), PEEKED):
        try:
            content = parse_json(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # not a puzzle in any case
        if looks_like_puzzles(content):
            return True
    return False


def looks_like_puzzle(value: object) -> bool:
    """Whether a value of JSON is meant as one puzzle."""
    return isinstance(value, Mapping) and ("train" in value or "test" in value)


def looks_like_pairs(value: object) -> bool:
    """Whether a value of JSON is a list of pairs of grids."""
    return isinstance(value, list) and bool(value) and all(map(_looks_like_pair, value[:3]))


def looks_like_puzzles(value: object) -> bool:
    """Whether a value of JSON is in one of the forms."""
    if looks_like_puzzle(value) or looks_like_pairs(value):
        return True
    if isinstance(value, list):
        return bool(value) and all(map(looks_like_puzzle, value))
    return isinstance(value, Mapping) and any(looks_like_puzzle(v) or looks_like_pairs(v) for v in value.values())


def _looks_like_pair(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("input"), list) and "output" in value


# -- files ---------------------------------------------------------------------------------------------------------


def one_object(file: Path, rows: Sequence[Row] = ()) -> Row:
    """The one object of a file, of which the rows may have been read; a list of pairs stands under `pairs`.

    Rows that are puzzles are put by their ids, or by the file's name and their numbers.
    """
    rows = rows or read_rows(file)
    if len(rows) > 1 and all(looks_like_puzzle(row.values) for row in rows):
        return Row(file, "top level", _named(rows, file))
    if all(_looks_like_pair(row.values) for row in rows):
        return Row(file, "top level", {"pairs": [row.values for row in rows]})
    if len(rows) > 1 or not rows[0].values:
        got = f"{len(rows)} rows" if len(rows) > 1 else "an empty object"
        raise DataError(f"{file}: expected one object, a puzzle or some by id, got {got}: write them in one {{...}}")
    return replace(rows[0], place="top level")


def _named(rows: Sequence[Row], file: Path) -> dict[str, Mapping[str, object]]:
    puzzles: dict[str, Mapping[str, object]] = {}
    for number, row in enumerate(rows, start=1):
        given = (row.values.get(name) for name in ("id", "task_id", "name"))
        id = next((str(value) for value in given if isinstance(value, str | int)), f"{file.stem}-{number}")
        if id in puzzles:
            raise row.error("id", expected="an id of its own", got=f"{id!r} again", advice="rename one")
        puzzles[id] = row.values
    return puzzles


def _forms(top: Row, name: str) -> tuple[dict[str, Row], bool]:
    """The puzzles of a file, and whether they stand there by id."""
    if looks_like_puzzle(top.values) or "pairs" in top.values:
        return {name: top}, False
    puzzles = {}
    for id, value in top.values.items():
        if not id.strip():
            raise top.error("", expected="puzzles by id", got="an empty id", advice="give the puzzle a name")
        values = {"pairs": value} if looks_like_pairs(value) else within(top, id).values
        puzzles[id] = Row(top.file, top.place, values, f"{top.within}{id}.")
    return puzzles, True


def within(row: Row, field: str) -> Row:
    """The object in a field."""
    value = row.values.get(field)
    if not isinstance(value, Mapping):
        advice = "see seal_lightning.data.ArcFiles for the forms of files"
        raise row.error(field, expected="an object", got=row.got(field), advice=advice)
    return Row(row.file, row.place, value, f"{row.within}{field}.")


def _dealt(row: Row, dealt: Dealt) -> Row:
    return dealt.puzzle(row) if "pairs" in row.values else row


def _say_left_out(path: Path, rows: Sequence[Row], dealt: Dealt) -> None:
    counts = [len(row.values["pairs"]) for row in rows if "pairs" in row.values]
    used = len(counts) * (dealt.demonstrations + dealt.tests)
    if sum(counts) > used:
        log.warning(
            "%s: of %d lists of pairs the first %d are the demonstrations and the next %d the tests; %d of %d pairs "
            "are left out (demonstrations, tests)",
            path,
            len(counts),
            dealt.demonstrations,
            dealt.tests,
            sum(counts) - used,
            sum(counts),
        )


def _solutions_beside(file: Path) -> Path | None:
    if "challenges" not in file.name:
        return None
    beside = file.with_name(file.name.replace("challenges", "solutions"))
    return beside if beside.is_file() else None


# -- folders -------------------------------------------------------------------------------------------------------


def _json_files(folder: Path) -> Iterator[Path]:
    """All .json files below a folder that are not hidden, by folder and then by id."""
    found = (file for file in folder.rglob("*.json") if file.is_file())
    files = (contained(folder, file.relative_to(folder)) for file in found)
    seen = (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return iter(sorted(seen, key=lambda file: (file.relative_to(folder).parent.parts, file.stem)))


def _of_folder(folder: Path, split: str | None) -> list[_File]:
    listed = [file for file in _json_files(folder) if "solutions" not in file.name]
    if not listed:
        raise DataError(f"{folder}: expected .json files, a puzzle in each, got none: check the path")
    chosen = listed if split is None else _of_split(folder, listed, split)
    files, others = [], []
    for file in chosen:
        rows = read_rows(file)
        if any(looks_like_puzzles(content) for content in (rows[0].values, [row.values for row in rows])):
            files.append(_File(file, file.relative_to(folder), *_forms(one_object(file, rows), file.stem)))
        else:
            others.append((file, rows[0]))
    if not files:
        _, row = others[0]
        fields = f"the fields {', '.join(list(row.values)[:4])}"
        advice = "see seal_lightning.data.ArcFiles for the forms of files"
        raise row.error("", expected="a puzzle with train and test", got=fields, advice=advice)
    if others:
        names = ", ".join(str(file.relative_to(folder)) for file, _ in others[:3]) + ("…" if len(others) > 3 else "")
        log.warning("%s: skipped %d .json files without puzzles: %s", folder, len(others), names)
    _say_folders(folder, files)
    return files


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """The files in folders of that name; or, of files outside such folders, those with it in their names."""
    below = {file: file.relative_to(folder) for file in files}
    names = {file: {*path.parent.parts, *path.stem.replace("-", "_").split("_")} for file, path in below.items()}
    in_folders = [file for file in files if split in below[file].parent.parts]
    if chosen := in_folders or [file for file in files if split in names[file]]:
        return chosen
    known = {part for path in below.values() for part in path.parent.parts}
    known |= {name for words in names.values() for name in words if name in SPLITS}
    near = get_close_matches(split, known, n=1, cutoff=0.5)
    listed = ", ".join(sorted(known)[:12]) or "no sub-folder"
    advice = f"did you mean {near[0]}?" if near else "use one of them"
    raise DataError(f"{folder}: expected a sub-folder or file of split {split!r}, got {listed}: {advice}")


def _say_folders(folder: Path, files: Sequence[_File]) -> None:
    """That several sets were read as one: training and evaluation puzzles together are seldom what is wanted."""
    counts = Counter(str(file.within.parent) for file in files if not file.by_id)
    if len(counts) < 2:
        return
    splits = len({Path(name).name for name in counts} & SPLITS) > 1
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:8])
    shown += "…" if len(counts) > 8 else ""
    advice = "; to read one of them set split, or name its folder" if splits else ""
    level = logging.WARNING if splits else logging.INFO
    log.log(level, "%s: read the puzzles of %d folders together: %s%s", folder, len(counts), shown, advice)


def _by_id(files: Sequence[_File]) -> dict[str, Row]:
    """All puzzles; where several files use an id, their folders come before it."""
    uses = Counter(id for file in files for id in file.puzzles)
    puzzles: dict[str, Row] = {}
    for file in files:
        for id, row in file.puzzles.items():
            name = id if uses[id] == 1 else (file.within.parent / id).as_posix()
            if name in puzzles:
                raise DataError(f"{file.path}: expected an id of its own, got {name!r} again: rename one")
            puzzles[name] = row
    return puzzles
