"""Every result of the SEAL authors that lies in some folders, beside what its single answers give here.

    python benchmarks/published.py FOLDER ... [--json FILE]

The folders are searched for JSON files, packed (.gz) or not, and each file is known by what it holds:

runs (`articles`)               every figure at the top of the file, computed again from the verdicts on single answers
continued pre-training          the same (`per_question`)
kept edits (`sft_*.jsonl`)      what the authors' rule keeps of the run that has their prompts, chosen again
tables of several evaluations   figures without answers: only a gain can be checked, against the two means it comes from
retention matrices              figures without answers

Figures that the paper prints (arXiv 2506.10943) are compared with the files' to the digit that it prints. Files that
hold none of these are named. The exit code is 1 where a figure differs or a kept edit is neither the same nor a tie.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seal_lightning.errors import DataError
from seal_lightning.files.rows import read_rows
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.continued import read_continued
from seal_lightning.records.entries import Entry, read_entries
from seal_lightning.records.golden import GoldenComparison, compare, said
from seal_lightning.records.official import DIGITS, published_figures
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.plural import counted

BEFORE, AFTER, GAIN = "baseline_mean_accuracy", "adapter_mean_accuracy", "mean_gain"  # of runs and their tables
MEANS = (BEFORE, AFTER, "baseline_accuracy", "adapter_accuracy")  # shown of every result
SHOWN = 8  # files that hold no results
ROUNDED = 1.5e-4  # a gain may differ by as much from the difference of two means, each of the three rounded to 4 digits
# What the paper prints, in percent.
PAPER = {
    "eval_tables: base": {BEFORE: 32.7, AFTER: 39.7},
    "eval_tables: naive": {AFTER: 33.5},
    "eval_tables: iter1": {AFTER: 42.7},
    "eval_tables: iter2": {AFTER: 47.0},
    "eval_tables: gpt4_1": {AFTER: 46.3},
    "continual_overall_results": {"before": 33.1, "learnt": 38.3, "after 7 more": 18.9},
}


@dataclass(frozen=True)
class Result:
    """One published result.

    Attributes:
        name: The file's name, and the row's where a file has several.
        size: What it is about, in words.
        published: Its figures.
        computed: Those that the file's answers give; empty where it has none.
        derived: Whether a figure that follows from others of the file does so, within their rounding.
    """

    name: str
    size: str
    published: Mapping[str, float]
    computed: Mapping[str, float] = field(default_factory=dict)
    derived: Mapping[str, bool] = field(default_factory=dict)

    @property
    def agreeing(self) -> int:
        """Figures that agree to 4 digits."""
        return sum(round(self.published[name], DIGITS) == value for name, value in self.computed.items())

    @property
    def printed(self) -> dict[str, tuple[float, bool]]:
        """Figures that the paper prints, and whether the file's round to them."""
        return {
            name: (value, abs(100 * self.published[name] - value) <= 0.05 + 1e-9)
            for name, value in PAPER.get(self.name, {}).items()
            if name in self.published
        }


@dataclass
class Found:
    """What the folders hold."""

    results: list[Result] = field(default_factory=list)
    runs: list[Entry] = field(default_factory=list)
    golden: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


# -- reading -----------------------------------------------------------------------------------------------------------


def find(folders: Sequence[Path]) -> Found:
    """Everything below the folders that is a result, in the order of names."""
    found = Found()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*.json*") if path.is_file()):
            if ".jsonl" in path.suffixes:
                (found.golden if path.name.startswith("sft_") else found.others).append(path)
            elif results := list(read(path, found.runs)):
                found.results += results
            else:
                found.others.append(path)
    return found


def read(path: Path, runs: list[Entry]) -> Iterator[Result]:
    """The results of a file; runs are kept to choose from."""
    name = path.name.partition(".json")[0]
    try:
        content = read_rows(path)[0].values
    except DataError:  # no objects, as in many a JSON file of a repository
        return
    if "articles" in content:
        (entry,) = read_entries(str(path))
        runs.append(entry)
        yield of_run(name, entry)
    elif "per_question" in content and (run := read_continued(path)):
        size = f"{run.contexts} contexts in one model, {run.queries} queries"
        published = {figure: pair[0] for figure, pair in run.published.items()}
        yield Result(name, size, published, {figure: pair[1] for figure, pair in run.published.items()})
    elif "mean_over_sequences" in content:
        yield of_matrix(name, content)
    elif content and all(isinstance(row, Mapping) and AFTER in row for row in content.values()):
        yield from (of_row(f"{name}: {key}", row) for key, row in content.items())


def of_run(name: str, entry: Entry) -> Result:
    assert entry.run is not None
    figures = published_figures(entry.run)
    groups = group_rollouts(entry.rollouts)
    edits, repeats = max(len(group.outcomes) for group in groups), max(r.repeat for r in entry.rollouts) + 1
    size = f"{len(groups)} contexts x {edits} edits x {repeats}"
    published, computed = ({key: pair[place] for key, pair in figures.items()} for place in (0, 1))
    return Result(name, size, published, computed)


def of_row(name: str, row: Mapping[str, float]) -> Result:
    fits = abs(row[AFTER] - row[BEFORE] - row[GAIN]) <= ROUNDED
    return Result(name, "no answers", dict(row), derived={GAIN: bool(fits)})


def of_matrix(name: str, content: Mapping[str, Any]) -> Result:
    """The first context's accuracy before, just learnt, and at the end; the matrix has many more figures."""
    column = [row[0] for row in content["mean_over_sequences"]]
    steps = len(column) - 1
    figures = {"before": column[0], "learnt": column[1], f"after {steps - 1} more": column[-1]}
    return Result(name, f"{content['n_sequences']} sequences of {steps} contexts, no answers", figures)


def kept_edits(found: Found) -> tuple[list[GoldenComparison], list[str]]:
    """What is kept of each run by the authors' rule beside their files, and the files that belong to no run."""
    comparisons, alone = [], []
    for path in found.golden:
        of_runs = []
        for entry in found.runs:
            kept = {entry.name: [best for group in group_rollouts(entry.rollouts) for best in best_of(group)]}
            try:
                of_runs.append(compare(str(path), [entry], kept))
            except DataError:  # of another run's prompts
                continue
        best = max(of_runs, key=lambda one: one.same, default=None)
        comparisons += [best] if best else []
        alone += [] if best else [path.name]
    return comparisons, alone


# -- the table ---------------------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> Table:
    """A row for each result: its means, and how many of its figures agree."""
    header = ("", "size", "figure", "paper", "published", "from the answers", "figures that agree")
    rows = []
    for result in results:
        agreeing = f"{result.agreeing} of {len(result.computed)}" if result.computed else "–"
        main = [name for name in result.published if name in (*PAPER.get(result.name, ()), *MEANS)]
        for place, name in enumerate(main):
            computed = result.computed.get(name)
            rows.append(
                (
                    "" if place else result.name,
                    "" if place else result.size,
                    name,
                    f"{result.printed[name][0]:.1f}" if name in result.printed else "",
                    f"{result.published[name]:.{DIGITS}f}",
                    "–" if computed is None else f"{computed:.{DIGITS}f}",
                    "" if place else agreeing,
                )
            )
    return Table("", header, tuple(rows))


def summary(found: Found, comparisons: Sequence[GoldenComparison]) -> Iterator[str]:
    """What agrees, in sentences."""
    answered = [result for result in found.results if result.computed]
    total, agreeing = sum(len(one.computed) for one in answered), sum(one.agreeing for one in answered)
    yield f"from single answers: {agreeing} of {total} figures of {counted(len(answered), 'file')} to {DIGITS} digits"
    for result in answered:
        for name, value in result.computed.items():
            if round(result.published[name], DIGITS) != value:
                yield f"differs: {result.name}, {name}: {result.published[name]:.{DIGITS}f} published, {value} here"
    for one in comparisons:
        yield said(one)
    printed = [(result.name, name, *pair) for result in found.results for name, pair in result.printed.items()]
    if printed:
        yield f"printed in the paper: {sum(row[3] for row in printed)} of {len(printed)} are the files', rounded"
    yield from (
        f"differs: {name}, {figure}: the paper prints {value}" for name, figure, value, fits in printed if not fits
    )
    derived = [fits for result in found.results for fits in result.derived.values()]
    if derived:
        yield f"no answers, but a difference: {sum(derived)} of {len(derived)} gains, within their rounding"
    if without := sum(not result.computed for result in found.results):
        yield f"no answers to compute from: {counted(without, 'result')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folders with the authors' files")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    if missing := [folder for folder in options.folders if not folder.is_dir()]:
        parser.error(f"{missing[0]}: expected a folder, got nothing there or a file: check the path")
    try:
        found = find(options.folders)
    except DataError as error:  # a result, but a damaged one
        raise SystemExit(str(error)) from error
    if not found.results:
        raise SystemExit(f"{options.folders[0]}: expected the authors' result files, got none: see docs/replay.md")
    comparisons, alone = kept_edits(found)
    print(to_markdown(table(found.results)), end="\n\n")
    lines = list(summary(found, comparisons))
    print("\n".join(lines))
    others = [f"{name} (kept edits of a run that is not here)" for name in alone]
    if others := [*others, *(path.name for path in found.others)]:
        rest = len(others) - SHOWN
        print(f"not read: {', '.join(others[:SHOWN])}{f' and {rest} more' if rest > 0 else ''}")
    if options.json:
        rows = [{**asdict(result), "agreeing": result.agreeing} for result in found.results]
        options.json.write_text(
            json.dumps({"results": rows, "kept": [asdict(one) for one in comparisons]}, indent=1) + "\n"
        )
    fits = all(fits for result in found.results for fits in result.derived.values())
    sys.exit(
        int(any(line.startswith("differs") for line in lines) or any(one.misses for one in comparisons) or not fits)
    )


if __name__ == "__main__":
    main()
