"""Where puzzles of ARC lie: files in four forms, and folders of such files as repositories and Kaggle have them.

    a puzzle             {"train": [pair, ...], "test": [pair, ...]}       ARC-AGI-1 and 2, ConceptARC, Mini-ARC
    pairs of one rule    [{"input": grid, "output": grid}, ...]            re-arc
    puzzles by id        {"007bbfb7": a puzzle or pairs, ...}              Kaggle's challenges
    puzzles in rows      [{"id": "007bbfb7", "train": ...}, ...]           data sets on the hub, JSON Lines

Only the forms are looked at here; the reader (`arc.py`) checks the content of a puzzle.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from seal_lightning.data.base import did_you_mean, is_hidden, some
from seal_lightning.errors import DataError, check_count
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.contained import contained
from seal_lightning.files.rows import Row, read_rows

log = logging.getLogger(__name__)

SPLITS = {"train", "training", "eval", "evaluation", "validation", "dev", "test", "testing"}
PEEKED = 8  # files of a folder that are opened to see whether it holds puzzles


@dataclass(frozen=True, slots=True)
class Dealt:
    """How many pairs of a list become a puzzle, from the first one on."""

    demonstrations: int
    tests: int

    def __post_init__(self) -> None:
        check_count("demonstrations", self.demonstrations)
        check_count("tests", self.tests)

    def puzzle(self, pairs: Row) -> Row:
        """The puzzle made of the list under `pairs`; a row that is a puzzle stays as it is."""
        if "pairs" not in pairs.values:
            return pairs
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
        path: The file or folder; of a folder, all files below it are read except hidden ones.
        dealt: How lists of pairs become puzzles.
        split: Read only sub-folders, or files of puzzles by id, with this name.

    Raises:
        DataError: There are no puzzles, or several sets of them may be meant.
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
    rows = _by_id(files)
    _say_left_out(path, list(rows.values()), dealt)
    puzzles = {id: dealt.puzzle(row) for id, row in rows.items()}
    if not many or "challenges" not in many[0].path.name:
        return puzzles, None
    beside = many[0].path.with_name(many[0].path.name.replace("challenges", "solutions"))
    return puzzles, beside if beside.is_file() else None


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


def one_object(file: Path, rows: Sequence[Row] = ()) -> Row:
    """The one object of a file, whose rows may have been read already; a list of pairs is put under `pairs`.

    Rows that are puzzles are put under their ids, or under the file's name and their numbers.
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
            raise row.error("id", expected="a unique id", got=f"{id!r} again", advice="rename one")
        puzzles[id] = row.values
    return puzzles


def _forms(top: Row, name: str) -> tuple[dict[str, Row], bool]:
    """The puzzles of a file, and whether the file has them by id."""
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


def _json_files(folder: Path) -> Iterator[Path]:
    """All .json files below a folder that are not hidden, by folder and then by id."""
    files = (contained(folder, file.relative_to(folder)) for file in folder.rglob("*.json") if file.is_file())
    seen = (file for file in files if not is_hidden(file, folder))
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
        names = some([str(file.relative_to(folder)) for file, _ in others])
        log.warning("%s: skipped %d .json files without puzzles: %s", folder, len(others), names)
    _say_folders(folder, files)
    return files


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """The files in folders of that name or, if there are no such folders, those that have it in their names."""
    below = {file: file.relative_to(folder) for file in files}
    names = {file: {*path.parent.parts, *path.stem.replace("-", "_").split("_")} for file, path in below.items()}
    in_folders = [file for file in files if split in below[file].parent.parts]
    if chosen := in_folders or [file for file in files if split in names[file]]:
        return chosen
    known = {part for path in below.values() for part in path.parent.parts}
    known |= {name for words in names.values() for name in words if name in SPLITS}
    listed = ", ".join(sorted(known)[:12]) or "no sub-folder"
    advice = did_you_mean(split, known, otherwise="use one of them")
    raise DataError(f"{folder}: expected a sub-folder or file of split {split!r}, got {listed}: {advice}")


def _say_folders(folder: Path, files: Sequence[_File]) -> None:
    """Log that several sets were read as one: training and evaluation puzzles together are seldom wanted."""
    counts = Counter(str(file.within.parent) for file in files if not file.by_id)
    if len(counts) < 2:
        return
    splits = len({Path(name).name for name in counts} & SPLITS) > 1
    shown = some([f"{name} ({count})" for name, count in counts.items()], 8)
    advice = "; to read one of them set split, or name its folder" if splits else ""
    level = logging.WARNING if splits else logging.INFO
    log.log(level, "%s: read the puzzles of %d folders together: %s%s", folder, len(counts), shown, advice)


def _by_id(files: Sequence[_File]) -> dict[str, Row]:
    """All puzzles; if several files use an id, it is prefixed with their folders."""
    uses = Counter(id for file in files for id in file.puzzles)
    puzzles: dict[str, Row] = {}
    for file in files:
        for id, row in file.puzzles.items():
            name = id if uses[id] == 1 else (file.within.parent / id).as_posix()
            if name in puzzles:
                raise DataError(f"{file.path}: expected a unique id, got {name!r} again: rename one")
            puzzles[name] = row
    return puzzles
