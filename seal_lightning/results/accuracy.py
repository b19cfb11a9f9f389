"""The paper's table from rollouts: base, passage only and self-edits (own or written), with intervals over contexts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.results.averages import baseline, by_context, context_means, interval, say_interval, score
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.results.usage import total_seconds
from seal_lightning.types import JsonObject, Kind, Rollout

# The rows, and the rollouts that each is about.
KIND_OF: dict[str, Kind] = {"base": "edit", "passage": "passage", "edits": "edit", "written": "written"}


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One line of the table.

    Attributes:
        name: What the model was adapted to.
        accuracy: Mean over contexts, in [0, 1].
        low: Lower end of the 95 % interval; None where there are too few contexts for one.
        high: Its upper end.
        contexts: Number of contexts.
        queries: Number of their queries.
        tokens: Tokens trained, over all epochs.
        seconds: Wall-clock time of the phases that led to the row.
    """

    name: str
    accuracy: float
    low: float | None
    high: float | None
    contexts: int
    queries: int
    tokens: int
    seconds: float


def means_of(rollouts: Sequence[Rollout], name: str) -> dict[str, float]:
    """The values by context whose mean is a row of the table (a name of `KIND_OF`)."""
    wanted = [rollout for rollout in rollouts if rollout.kind == KIND_OF[name]]
    return context_means(wanted, baseline if name == "base" else score)


def evaluation_means(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The accuracy of each row that the rollouts allow."""
    return {name: fmean(means.values()) for name in KIND_OF if (means := means_of(rollouts, name))}


def accuracy_table(rollouts: Sequence[Rollout], *, resamples: int = 2000) -> list[AccuracyRow]:
    """The rows that the rollouts allow, in the order of `KIND_OF`."""
    return [row for name in KIND_OF if (row := _row(name, rollouts, resamples))]


def rounds_table(validations: Mapping[int, Sequence[Rollout]], *, resamples: int = 2000) -> list[AccuracyRow]:
    """One table of a run: the baselines of its first validation, and the edits of every round's.

    Args:
        validations: The rollouts of each validation by the number of rounds before it.
        resamples: Resamples of the bootstrap; 0 leaves the intervals out.
    """
    rows: list[AccuracyRow] = []
    for row in accuracy_table(validations[min(validations)], resamples=resamples):
        if row.name != "edits":
            rows.append(row)
            continue
        for number in sorted(validations):
            title = f"edits after round {number}" if number else "edits before training"
            if of_round := _row("edits", validations[number], resamples, title=title):
                rows.append(of_round)
    return rows


def _row(name: str, rollouts: Sequence[Rollout], resamples: int, *, title: str = "") -> AccuracyRow | None:
    """None where no rollout is about the row."""
    wanted = [rollout for rollout in rollouts if rollout.kind == KIND_OF[name]]
    means = means_of(wanted, name)
    if not means:
        return None
    low, high = interval(list(means.values()), resamples=resamples)
    base = name == "base"
    phases = ("baseline",) if base else ("sampling", "inner loop", "answering")
    seconds = total_seconds(rollouts if base else wanted)
    return AccuracyRow(
        name=title or name,
        accuracy=fmean(means.values()),
        low=low,
        high=high,
        contexts=len(means),
        queries=sum(len(group[0].questions) for group in by_context(wanted).values()),
        tokens=0 if base else sum(rollout.tokens.get("trained", 0) for rollout in wanted),
        seconds=sum(seconds.get(phase, 0.0) for phase in phases),
    )


def to_table(rows: Sequence[AccuracyRow]) -> Table:
    """The rows for a reader."""
    return Table(
        "",
        ("", "accuracy", "95 % interval", "contexts", "queries", "tokens trained", "seconds"),
        tuple(
            (row.name, row.accuracy, say_interval(row.low, row.high, row.contexts), row.contexts, row.queries,
             row.tokens, round(row.seconds))
            for row in rows
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference in accuracy over contexts that were asked both times.

    Attributes:
        mean: The difference.
        low: Lower end of its 95 % interval; None where there are too few contexts for one.
        high: Its upper end.
        contexts: Number of contexts.
    """

    mean: float
    low: float | None
    high: float | None
    contexts: int

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def difference_of(values: Sequence[float]) -> Difference:
    """The difference whose values by context are given, at least one."""
    return Difference(fmean(values), *interval(values), len(values))


def paired_difference(after: Mapping[str, float], before: Mapping[str, float]) -> Difference | None:
    """How much higher `after` is, over the contexts that both have; None where they have none in common.

    The bootstrap draws contexts with both of their values, so that how hard they are does not count.
    """
    values = [after[name] - before[name] for name in after if name in before]
    return difference_of(values) if values else None


# -- on disk -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResultFile:
    """What a fit, validation or test came to, as its run folder keeps it: `fit.json` for programs, `fit.md` for people.

    Attributes:
        accuracy: The rows of the accuracy table.
        tables: What the task adds to it.
        notes: What was changed, limited, cut or left out, a sentence each.
    """

    accuracy: Sequence[AccuracyRow] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """All of it, as it is printed and saved."""
        return "\n\n".join([*map(to_markdown, (to_table(self.accuracy), *self.tables)), *self.notes])

    def save(self, path: Path) -> None:
        """Write `path` with `.json` and with `.md`. Raises `SavingError` where that cannot be."""
        save_text(path.with_suffix(".md"), self.markdown() + "\n")
        save_text(path.with_suffix(".json"), json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> ResultFile | None:
    """What a command has saved; None where it is not there yet, or damaged."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return ResultFile(
            tuple(AccuracyRow(**row) for row in content["accuracy"]),
            tuple(
                Table(str(one["title"]), tuple(map(str, one["header"])), tuple(map(tuple, one["rows"])))
                for one in content["tables"]
            ),
            tuple(map(str, content["notes"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None


def json_object(path: Path) -> JsonObject:
    """The object in a JSON file; empty where there is none, or the file is damaged."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
