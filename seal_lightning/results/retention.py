"""What is left of earlier contexts after later ones were learnt: the retention matrix (arXiv 2506.10943, section 5).

Row 0 is the base; row i is the policy after i contexts of a stream (or after i rounds of a fit), column j the accuracy
on the j-th context's queries, asked without the context. In a stream, contexts that come later than the row are not
asked. Several streams (orders, seeds) are averaged by place. The authors' own result file is read and written; it has 0
where nothing was asked, and the standard deviation over streams with n in the denominator.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, TypeVar

from seal_lightning.errors import DataError, reason_of
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.results.accuracy import Difference, difference_of
from seal_lightning.results.averages import FEWEST, Bounds, interval, say_interval
from seal_lightning.results.table import Table

DIGITS = 4
T = TypeVar("T")
FILE = "retention.json"
Cells = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class ContextStream:
    """Contexts learnt one after another.

    Attributes:
        name: Name that tells streams apart, such as `order 0, seed 0`; the same in all matrices to be compared.
        contexts: Ids of the n contexts, in the order of learning.
        rows: Accuracies, n + 1 rows at most (fewer while it runs); row 0 the base on all n, row i on the first i (or on
            all n).
        unrelated: Accuracy on queries that no context of the stream is about, one a row; empty where none were asked.
        shares: What a countermeasure left of each row's update, 0 if it refused it; None where that is not known.
    """

    name: str
    contexts: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    unrelated: tuple[float, ...] = ()
    shares: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionMatrix:
    """Streams averaged.

    Attributes:
        name: What was tried, such as a countermeasure.
        mean: (rows, n) accuracies; None where nothing was asked.
        std: Spread of each over streams.
        intervals: 95 % intervals of the mean over streams, by place; () where there are too few streams, or single
            ones are not known.
        streams: Streams it was made of; () for an official file.
        sequences: Number of streams.
        dataset: Source of the contexts.
        base_model: Model that learnt.
    """

    name: str
    mean: Cells
    std: Cells
    sequences: int
    intervals: tuple[tuple[Bounds, ...], ...] = ()
    streams: tuple[ContextStream, ...] = ()
    dataset: str = ""
    base_model: str = ""

    @property
    def unrelated(self) -> tuple[float, ...]:
        """Mean accuracy on unrelated queries by row; () where they were not asked in every stream."""
        asked = [stream.unrelated for stream in self.streams]
        return tuple(map(fmean, zip(*asked, strict=False))) if asked and all(asked) else ()

    @property
    def is_gated(self) -> bool:
        """Whether updates were scaled down or refused."""
        return any(share is not None and share < 1 for stream in self.streams for share in stream.shares)

    @property
    def last_row(self) -> float:
        """Mean accuracy on all contexts at the end."""
        return fmean(_asked(self.mean[-1]))

    @property
    def one_by_one(self) -> bool:
        """Whether its rows are contexts of a stream, and not the rounds of a fit, which learn all contexts at once."""
        return len(self.mean) < 2 or len(_asked(self.mean[1])) == 1

    @property
    def learnt(self) -> float:
        """Mean accuracy on each context right after it was learnt: the diagonal. The base's where nothing was.

        Means nothing where contexts were not learnt `one_by_one`.
        """
        diagonal = [row[place] for place, row in enumerate(self.mean[1:]) if place < len(row)]
        return fmean(_asked(diagonal)) if diagonal else fmean(_asked(self.mean[0]))

    @property
    def forgetting(self) -> float:
        """How much of it is lost at the end, on average."""
        return self.learnt - self.last_row


def average(name: str, streams: Sequence[ContextStream], *, dataset: str = "", base_model: str = "") -> RetentionMatrix:
    """The matrix of at least one stream; of streams that still run, the rows that all of them have."""
    height = min(len(stream.rows) for stream in streams)
    width = min(len(stream.contexts) for stream in streams)
    cells = [
        [[s.rows[i][j] for s in streams] if all(j < len(s.rows[i]) for s in streams) else [] for j in range(width)]
        for i in range(height)
    ]
    return RetentionMatrix(
        name=name,
        mean=tuple(tuple(fmean(cell) if cell else None for cell in row) for row in cells),
        std=tuple(tuple(pstdev(cell) if cell else None for cell in row) for row in cells),
        sequences=len(streams),
        intervals=tuple(tuple(interval(cell) for cell in row) for row in cells) if len(streams) >= FEWEST else (),
        streams=tuple(streams),
        dataset=dataset,
        base_model=base_model,
    )


def compare_last_rows(matrix: RetentionMatrix, other: RetentionMatrix) -> Difference:
    """What `matrix` keeps more than `other` at the end, over the streams that both have.

    The bootstrap draws contexts, each with all of its streams: the answers on one context rise and fall together.

    Raises:
        DataError: They have no finished stream in common.
    """
    before = {(s.name, context): score for s in other.streams for context, score in _last(s).items()}
    gains: dict[str, list[float]] = defaultdict(list)
    for stream in matrix.streams:
        for context, score in _last(stream).items():
            if (stream.name, context) in before:
                gains[context].append(score - before[stream.name, context])
    if not gains:
        raise DataError(
            f"{matrix.name} and {other.name}: expected a finished stream in both, got none in common: use the same "
            "contexts, orders and seeds"
        )
    return difference_of([fmean(values) for values in gains.values()])


def _last(stream: ContextStream) -> dict[str, float]:
    """The accuracy on every context at the end; none while the stream runs."""
    finished = len(stream.rows) > len(stream.contexts)
    return dict(zip(stream.contexts, stream.rows[-1], strict=True)) if finished else {}


def _asked(cells: Sequence[float | None]) -> list[float]:
    return [cell for cell in cells if cell is not None]


# -- tables ------------------------------------------------------------------------------------------------------------


def matrix_table(matrix: RetentionMatrix) -> Table:
    """One matrix in percent, and how far the intervals reach where they are known."""
    width = max(map(len, matrix.mean))
    header = ["", *(str(place + 1) for place in range(width)), *(["unrelated"] if matrix.unrelated else [])]
    header += ["update"] if matrix.is_gated else []
    rows = []
    for number, (head, means) in enumerate(zip(heads(matrix), matrix.mean, strict=True)):
        bounds = matrix.intervals[number] if matrix.intervals else ((None, None),) * len(means)
        cells = [_cell(*pair) for pair in zip(means, bounds, strict=True)]
        cells += [""] * (width - len(cells))
        cells += [_cell(matrix.unrelated[number])] if matrix.unrelated else []
        cells += [_cell(_share(matrix, number))] if matrix.is_gated else []
        rows.append((head, *cells))
    return Table("", tuple(header), tuple(rows))


def _share(matrix: RetentionMatrix, row: int) -> float | None:
    """What was left of a row's update, on average over streams."""
    known = [s.shares[row] for s in matrix.streams if row < len(s.shares)]
    numbers = [share for share in known if share is not None]
    return fmean(numbers) if numbers else None


def _updates(matrix: RetentionMatrix) -> str:
    """How many updates were added whole, scaled and not at all."""
    shares = [share for stream in matrix.streams for share in stream.shares if share is not None]
    scaled = [share for share in shares if 0 < share < 1]
    mean = f" to {100 * fmean(scaled):.0f} % on average" if scaled else ""
    return f"{sum(share >= 1 for share in shares)} whole, {len(scaled)} scaled{mean}, {shares.count(0)} refused"


def heads(matrix: RetentionMatrix) -> list[str]:
    """What the rows of a matrix are called."""
    return ["base", *(f"after {number}" for number in range(1, len(matrix.mean)))]


def summary_table(matrices: Sequence[RetentionMatrix]) -> Table:
    """One line a matrix: learnt, left at the end, lost, and the last row against the first matrix's.

    Where updates were scaled or refused, how many. Empty where it says nothing: what a fit's rounds learnt and lost,
    and the last without a finished stream in both.
    """
    gated = any(matrix.is_gated for matrix in matrices)
    header = ("", "base", "learnt", "left", "lost", "unrelated", "left, against the first")
    rows = []
    for matrix in matrices:
        unrelated = f"{100 * matrix.unrelated[0]:.1f} -> {100 * matrix.unrelated[-1]:.1f}" if matrix.unrelated else ""
        learnt, lost = (matrix.learnt, matrix.forgetting) if matrix.one_by_one else (None, None)
        numbers = (fmean(_asked(matrix.mean[0])), learnt, matrix.last_row, lost)
        against = "" if matrix is matrices[0] else _against(matrix, matrices[0])
        updates = [_updates(matrix) if matrix.is_gated else ""] if gated else []
        rows.append((matrix.name, *map(_cell, numbers), unrelated, against, *updates))
    return Table("", (*header, "updates") if gated else header, tuple(rows))


def _against(matrix: RetentionMatrix, first: RetentionMatrix) -> str:
    try:
        difference = compare_last_rows(matrix, first)
    except DataError:  # other streams, or none that is finished
        return ""
    around = say_interval(difference.low, difference.high, difference.contexts, form="+.1f", factor=100)
    return f"{100 * difference.mean:+.1f} ({around})"


def _cell(value: float | None, bounds: Bounds = (None, None)) -> str:
    if value is None:
        return ""
    low, high = bounds
    around = "" if low is None or high is None else f" ({100 * low:.0f}-{100 * high:.0f})"
    return f"{100 * value:.1f}{around}"


# -- files -------------------------------------------------------------------------------------------------------------


def to_official(matrix: RetentionMatrix) -> dict[str, object]:
    """The content of the authors' `continual_overall_results.json`."""
    return {
        "mean_over_sequences": _filled(matrix.mean),
        "std_over_sequences": _filled(matrix.std),
        "n_sequences": matrix.sequences,
        "n_datapoints": max(map(len, matrix.mean)),
        "dataset": matrix.dataset,
        "base_model": matrix.base_model,
    }


def write_matrices(path: Path, matrices: Sequence[RetentionMatrix]) -> None:
    """Write matrices with their streams, from which everything else is computed again."""
    found = [
        {
            "name": matrix.name,
            "dataset": matrix.dataset,
            "base_model": matrix.base_model,
            "streams": [asdict(stream) for stream in matrix.streams],
        }
        for matrix in matrices
    ]
    save_text(path, json.dumps({"matrices": found}, ensure_ascii=False, indent=1) + "\n")


def read_matrices(path: Path) -> list[RetentionMatrix]:
    """Read what `write_matrices` wrote, or a file in the authors' form.

    Raises:
        DataError: The file is missing, or has another form.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a retention matrix as JSON, got {_reason(error)}: check the path") from error
    try:
        if "matrices" in content:
            return [
                average(
                    str(found["name"]),
                    [_stream(one) for one in _some("streams", found["streams"])],
                    dataset=str(found["dataset"]),
                    base_model=str(found["base_model"]),
                )
                for found in _some("matrices", content["matrices"])
            ]
        return [_official(content, path)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "matrices with streams, or mean_over_sequences as in the authors' file"
        raise DataError(f"{path}: expected {expected}, got {_reason(error)}: write the file again") from error


def _stream(content: Mapping[str, Any]) -> ContextStream:
    contexts = tuple(map(str, _some("contexts", content["contexts"])))
    rows = tuple(_accuracies(row) for row in _some("rows", content["rows"]))
    unrelated = _accuracies(content["unrelated"])
    for number, row in enumerate(rows):
        wanted = sorted({min(number or len(contexts), len(contexts)), len(contexts)})
        if len(row) not in wanted:
            raise ValueError(f"{len(row)} numbers in row {number}, not {' or '.join(map(str, wanted))}")
    if unrelated and len(unrelated) != len(rows):
        raise ValueError(f"{len(unrelated)} numbers in unrelated for {len(rows)} rows")
    shares = tuple(None if share is None else float(share) for share in content.get("shares", ()))
    if any(share is not None and not 0 <= share <= 1 for share in shares):
        raise ValueError("a share of an update, which is 0 to 1")
    return ContextStream(str(content["name"]), contexts, rows, unrelated, shares)


def _official(content: Mapping[str, Any], path: Path) -> RetentionMatrix:
    mean, std = (_unfilled(content[f"{name}_over_sequences"]) for name in ("mean", "std"))
    return RetentionMatrix(
        name=path.stem,
        mean=mean,
        std=std,
        sequences=int(content["n_sequences"]),
        dataset=str(content.get("dataset", "")),
        base_model=str(content.get("base_model", "")),
    )


def _some(name: str, values: Sequence[T]) -> Sequence[T]:
    if not values:
        raise ValueError(f"no {name}")
    return values


def _accuracies(values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if wrong := [number for number in numbers if not 0 <= number <= 1]:
        raise ValueError(f"{wrong[0]} as an accuracy, which is 0 to 1")
    return numbers


def _filled(cells: Cells) -> list[list[float]]:
    width = max(map(len, cells))
    return [[round(cell or 0.0, DIGITS) for cell in (*row, *[None] * (width - len(row)))] for row in cells]


def _unfilled(rows: Sequence[Sequence[float]]) -> Cells:
    """Without the zeros of contexts that had not been learnt yet: their column is not below the row's number."""
    if any(len(row) != len(rows[0]) for row in _some("rows", rows)):
        raise ValueError("rows of different lengths")
    return tuple(
        tuple(cell if number == 0 or place < number else None for place, cell in enumerate(_accuracies(row)))
        for number, row in enumerate(rows)
        if _some("numbers in a row", row)
    )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no field {error.args[0]}"
    return reason_of(error)[:100]
