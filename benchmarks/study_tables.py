"""The tables, words and figure of benchmarks/study.py, from the journals of its runs."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import matplotlib
from shapes import machine

from seal_lightning.files.saving import save_text
from seal_lightning.grading import F1, Calibrated, Grader, Recall
from seal_lightning.records.anew import regrade
from seal_lightning.records.entries import Entry, read_entries
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import Difference, paired_difference
from seal_lightning.results.averages import baseline, context_means, interval, score
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.results.usage import total_seconds
from seal_lightning.types import Rollout

FREE_WORDS = 8  # of an answer beside the question's and the gold's, before it is paid less
GRADERS: dict[str, Grader] = {
    "calibrated": Calibrated(),
    f"calibrated, {FREE_WORDS} free words": Calibrated(free_words=FREE_WORDS),
    "f1": F1(),
    "recall": Recall(),
}
# Which differences are told: a row, the row that it is compared with.
COMPARED = (
    ("passage", "base"),
    ("own edits, untrained", "base"),
    ("own edits, untrained", "passage"),
    ("own edits, 1 round", "own edits, untrained"),
    ("own edits, 2 rounds", "own edits, untrained"),
    ("own edits, 2 rounds", "passage"),
    ("rules", "passage"),
    ("rules", "own edits, 2 rounds"),
    ("ensemble", "own edits, untrained"),
    ("teacher", "own edits, 2 rounds"),
    ("teacher", "rules"),
    ("generator", "base"),
)
ByContext = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A way of learning the contexts.

    Attributes:
        name: What the model learnt from.
        objective: Towards what its adapters were trained; "" where there are none.
        scores: By grader, a mapping from seed to the score of each context, in [0, 1].
        words: Mean length of an answer.
        rejected: Share of edits that nothing could be trained on; their contexts are answered without an adapter.
        tokens: Tokens trained for a context, over all epochs; mean.
        seconds: Of sampling, training and answering for a context; mean.
        queries: Number of queries.
    """

    name: str
    objective: str
    scores: Mapping[str, Mapping[str, ByContext]]
    words: float
    rejected: float
    tokens: float
    seconds: float
    queries: int

    def means(self, grader: str) -> ByContext:
        """The mean over seeds of each context's score."""
        seeds = list(self.scores[grader].values())
        return {context: fmean(seed[context] for seed in seeds) for context in seeds[0]}


@dataclass
class Study:
    """All rows that there are, and how they came about."""

    rows: Sequence[Row] = ()
    command: str = ""
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    machine: str = field(default_factory=lambda: machine("cpu"))
    versions: str = field(
        default_factory=lambda: ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "transformers"))]
        )
    )

    @property
    def objectives(self) -> list[str]:
        return list(dict.fromkeys(row.objective for row in self.rows))

    def row(self, name: str, objective: str) -> Row | None:
        return next((row for row in self.rows if (row.name, row.objective) == (name, objective)), None)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_rows(part: str, objective: str, runs: Sequence[Path]) -> list[Row]:
    """The rows of a part, from the run of each seed (`seed=N`)."""
    by_row: dict[str, dict[str, list[Rollout]]] = {}
    for run in runs:
        for name, rollouts in _rows_of(part, run).items():
            by_row.setdefault(name, {})[run.name.removeprefix("seed=")] = rollouts
    return [_row(name, objective, seeds) for name, seeds in by_row.items()]


def _rows_of(part: str, run: Path) -> dict[str, list[Rollout]]:
    """The rollouts of each row of a run: one that trained a policy has a validation a round, others a single one."""
    rounds = read_validations(run)
    found = rounds or {0: [rollout for entry in read_entries(str(run)) for rollout in entry.rollouts]}
    rows: dict[str, list[Rollout]] = {}
    if passages := [rollout for rollout in found[0] if rollout.kind == "passage"]:
        rows = {"base": passages, "passage": passages}
    if part != "own":
        return {**rows, part: [rollout for rollout in found[max(found)] if rollout.kind == "edit"]}
    for number, rollouts in sorted(found.items()):
        trained = f"own edits, {number} round{'s' * (number > 1)}"
        title = trained if number else "own edits, untrained" if rounds else "own edits of the policy"
        rows[title] = [each for each in rollouts if each.kind == "edit"]
    return rows


def _row(name: str, objective: str, seeds: Mapping[str, list[Rollout]]) -> Row:
    """A row of the table; `base` is what was answered before any adapter was there."""
    base = name == "base"
    scores: dict[str, dict[str, ByContext]] = {}
    for grader, grade in GRADERS.items():
        for seed, rollouts in seeds.items():
            (entry,), _ = regrade([Entry(seed, seed, tuple(rollouts), ())], grade)
            means = context_means(entry.rollouts, baseline if base else score)
            scores.setdefault(grader, {})[seed] = means
    every = [rollout for rollouts in seeds.values() for rollout in rollouts]
    answers = [
        text for each in every for text in (each.baseline_answers if base else each.answers or each.baseline_answers)
    ]
    phases = ("baseline",) if base else ("sampling", "inner loop", "answering")
    taken = total_seconds(every)
    return Row(
        name, objective, scores,
        words=fmean(len(text.split()) for text in answers),
        rejected=0.0 if base else fmean(each.status == "rejected" for each in every),
        tokens=0.0 if base else fmean(each.tokens.get("trained", 0) for each in every),
        seconds=sum(taken.get(phase, 0.0) for phase in phases) / len(every),
        queries=sum(len(each.questions) for each in next(iter(seeds.values()))),
    )  # fmt: skip


# -- writing -----------------------------------------------------------------------------------------------------------


def save_study(folder: Path, study: Study) -> None:
    """study.md, study.json and study.svg."""
    differences = list(differences_of(study))
    save_text(folder / "study.md", page(study, differences))
    content = {
        "command": study.command, "date": study.date, "machine": study.machine, "versions": study.versions,
        "rows": [vars(row) for row in study.rows],
        "differences": [
            {"objective": one.objective, "row": one.row, "over": one.over, "grader": one.grader, **asdict(one.found)}
            for one in differences
        ],
    }  # fmt: skip
    save_text(folder / "study.json", json.dumps(content, indent=1) + "\n")
    draw(folder / "study.svg", study)


@dataclass(frozen=True)
class Compared:
    """How much better one row is than another."""

    objective: str
    row: str
    over: str
    grader: str
    found: Difference

    def __str__(self) -> str:
        points = f"{100 * self.found.mean:+.1f}"
        if self.found.low is None or self.found.high is None:
            return points
        return f"{points} ({100 * self.found.low:+.1f} to {100 * self.found.high:+.1f})"


def differences_of(study: Study) -> list[Compared]:
    found = []
    for objective in study.objectives:
        for name, other in COMPARED:
            one, two = study.row(name, objective), study.row(other, objective) or study.row(other, "sft")
            if one is None or two is None:
                continue
            for grader in GRADERS:
                if difference := paired_difference(one.means(grader), two.means(grader)):
                    found.append(Compared(objective, name, other, grader, difference))
    return found


def page(study: Study, differences: Sequence[Compared]) -> str:
    """The study for a reader."""
    seeds = sorted({seed for row in study.rows for seed in next(iter(row.scores.values()))}, key=int)
    contexts = max((len(row.means("calibrated")) for row in study.rows), default=0)
    parts = [
        "# A study of SEAL",
        f"{contexts} contexts for evaluation, {max((row.queries for row in study.rows), default=0)} queries; seeds "
        f"{', '.join(seeds)}. {study.date}, {study.machine}; {study.versions}.\n\n`{study.command}`",
        "![rows and their intervals](study.svg)",
    ]
    for objective in study.objectives:
        of = [row for row in study.rows if row.objective == objective]
        parts += [
            f"## {f'Adapters trained by `{objective}`' if objective else 'Without an inner loop'}",
            accuracy(of, seeds),
        ]
        compared = [one for one in differences if one.objective == objective]
        if compared:
            parts += [difference_table(compared), in_words(compared)]
    return "\n\n".join(parts) + "\n"


def accuracy(rows: Sequence[Row], seeds: Sequence[str]) -> str:
    """Means with intervals by grader, then the seeds by the first grader, and what a row costs."""
    first = next(iter(GRADERS))
    head = ("", *GRADERS, *(f"seed {seed}" for seed in seeds), "words an answer", "edits rejected", "tokens", "seconds")
    lines = []
    for row in rows:
        cells = []
        for grader in GRADERS:
            values = list(row.means(grader).values())
            low, high = interval(values)
            cells.append(f"{fmean(values):.3f}" + ("" if low is None or high is None else f" ({low:.3f}–{high:.3f})"))
        by_seed = [
            f"{fmean(row.scores[first][seed].values()):.3f}" if seed in row.scores[first] else "" for seed in seeds
        ]
        cost = (f"{row.words:.1f}", f"{row.rejected:.0%}", f"{row.tokens:,.0f}", f"{row.seconds:.1f}")
        lines.append((row.name, *cells, *by_seed, *cost))
    return to_markdown(Table("", head, tuple(lines))) + "\n\nTokens trained and seconds are means of a context."


def difference_table(differences: Sequence[Compared]) -> str:
    """A line a comparison, a column a grader."""
    lines: dict[tuple[str, str], list[str]] = {}
    for one in differences:
        lines.setdefault((one.row, one.over), []).append(f"**{one}**" if one.found.is_clear else str(one))
    head = ("points, paired over contexts; bold: the interval excludes 0", *GRADERS)
    return to_markdown(Table("", head, tuple((f"{row} over {over}", *cells) for (row, over), cells in lines.items())))


def in_words(differences: Sequence[Compared]) -> str:
    """Which differences are more than noise by every grader, by some, by none."""
    by_pair: dict[str, list[Compared]] = {}
    for one in differences:
        by_pair.setdefault(f"{one.row} over {one.over}", []).append(one)
    groups: dict[str, list[str]] = {"by every grader": [], "by some graders only": [], "by none": []}
    for pair, those in by_pair.items():
        signs = {(one.found.mean > 0) if one.found.is_clear else None for one in those}
        if None not in signs and len(signs) == 1:
            groups["by every grader"].append(f"{pair} ({'better' if signs == {True} else 'worse'})")
        elif signs == {None}:
            groups["by none"].append(pair)
        else:
            clear = [
                f"{one.grader}: {'better' if one.found.mean > 0 else 'worse'}" for one in those if one.found.is_clear
            ]
            groups["by some graders only"].append(f"{pair} ({', '.join(clear)})")
    return "\n".join(f"- More than noise {how}: {'; '.join(pairs) or 'nothing'}." for how, pairs in groups.items())


def draw(path: Path, study: Study) -> None:
    """Means with intervals of every row, a panel for the judge's likeness and one that does not pay for recitation."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = list(study.rows)[::-1]
    shown = list(GRADERS)[:2]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(10, 1 + 0.32 * len(rows)), sharey=True, layout="constrained")
    for axis, grader in zip(axes, shown, strict=True):
        for place, row in enumerate(rows):
            values = list(row.means(grader).values())
            low, high = interval(values)
            mean = fmean(values)
            axis.barh(place, mean, color="#4477aa" if row.objective == "sft" else "#cc6677", alpha=0.8)
            if low is not None and high is not None:
                axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3)
        axis.set_yticks(
            range(len(rows)), [f"{row.name}{f' · {row.objective}' if row.objective else ''}" for row in rows]
        )
        axis.set_title(grader)
        axis.set_xlabel("share right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
