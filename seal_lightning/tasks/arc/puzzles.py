"""A puzzle of ARC: pairs of grids that show a rule, and pairs of which the output is to be found.

As a context its demonstrations are the passage and its tests the queries, all in the canonical encoding: the rest of
SEAL carries texts and knows nothing of grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal_lightning.errors import DataError
from seal_lightning.tasks.arc.grids import DIGITS, Grid, GridError, GridText
from seal_lightning.types import Context, Query

INPUT, OUTPUT = "Input:\n", "Output:\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """A grid and what the rule makes of it."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Demonstrations of a rule and tests; both in their order, which is a hint in some puzzles.

    Attributes:
        demonstrations: The pairs that show the rule.
        tests: Pairs of which the output is to be found.
        asked: In place of `tests`, inputs of which nobody knows the output.
    """

    demonstrations: tuple[Pair, ...]
    tests: tuple[Pair, ...]
    asked: tuple[Grid, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.demonstrations + self.tests


def write_input(grid: Grid, text: GridText = DIGITS) -> str:
    """An input, after which the output is to follow."""
    return f"{INPUT}{text.encode(grid)}\n{OUTPUT}"


def write_demonstrations(pairs: Sequence[Pair], text: GridText = DIGITS) -> str:
    """Demonstrations with an empty line between them."""
    return "\n\n".join(f"{write_input(pair.input, text)}{text.encode(pair.output)}" for pair in pairs)


def context_of(puzzle: Puzzle, *, id: str, title: str = "", edits: tuple[str, ...] = ()) -> Context:
    """The puzzle as a context; tests are queries with their output as gold, where it is known."""
    queries = [Query(DIGITS.encode(pair.input), (DIGITS.encode(pair.output),)) for pair in puzzle.tests]
    queries += [Query(DIGITS.encode(grid), ()) for grid in puzzle.asked]
    return Context(
        id=id,
        title=title or id,
        passage=write_demonstrations(puzzle.demonstrations),
        queries=tuple(queries),
        edits=edits,
    )


def demonstrations_of(context: Context) -> tuple[Pair, ...]:
    """The demonstrations of a context.

    Raises:
        DataError: Its passage is something else.
    """
    try:
        return tuple(_read_pair(block) for block in context.passage.strip().split("\n\n"))
    except GridError as error:
        raise DataError(
            f"context {context.id!r}: expected a passage of demonstrations (Input: and Output:, each with a grid of "
            f"digits below it), got {error}: read puzzles with seal_lightning.data.ArcFiles"
        ) from error


def _read_pair(block: str) -> Pair:
    head, found, output = block.strip().partition(OUTPUT)
    if not found or not head.startswith(INPUT):
        raise GridError("no grid", f"a demonstration without {INPUT.strip()} and {OUTPUT.strip()}")
    return Pair(DIGITS.decode(head.removeprefix(INPUT)), DIGITS.decode(output))


def input_of(query: Query, context: Context) -> Grid:
    """The input of a test; `DataError` for a query of another kind."""
    return _read_grid(query.question, context)


def puzzle_of(context: Context) -> Puzzle:
    """The whole puzzle, tests with their outputs where they are known.

    Raises:
        DataError: The context is not a puzzle.
    """
    known = [(input_of(query, context), query.golds) for query in context.queries]
    tests = [Pair(input, _read_grid(golds[0], context)) for input, golds in known if golds]
    asked = [input for input, golds in known if not golds]
    return Puzzle(demonstrations_of(context), tuple(tests), tuple(asked))


def _read_grid(text: str, context: Context) -> Grid:
    try:
        return DIGITS.decode(text)
    except GridError as error:
        raise DataError(
            f"context {context.id!r}: expected grids of digits as queries and golds, got {error}: read puzzles with "
            "seal_lightning.data.ArcFiles"
        ) from error
