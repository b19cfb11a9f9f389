"""What the rollouts of ARC tell beyond accuracy: success rates of (context, edit) pairs (SEAL, section 4.1), and more.

    validations -> the rollouts of each row -> rows -> tables

Right is a grid with every cell right; a rejected edit fails. As in `evaluation.py`, values are averaged within contexts
first, and the bootstrap draws contexts. Contexts without tests say nothing and are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from seal_lightning.results.averages import by_context, context_means, interval, say_interval
from seal_lightning.results.table import Table
from seal_lightning.tasks.arc.answers import TRIES, candidates, ranking, reason_of, right_answers
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import LOSSES, SCHEMA
from seal_lightning.types import Kind, Rollout

Validations = Mapping[int, Sequence[Rollout]]  # by the number of rounds before them
IN_CONTEXT, DEMONSTRATIONS, EDITS, FIXED = "in-context", "demonstrations alone", "self-edits", "fixed configuration"
NO_EDITS = (IN_CONTEXT, DEMONSTRATIONS)
CONFIGURATIONS = 8  # shown


@dataclass(frozen=True, slots=True)
class ArcRow:
    """One line of the table. Shares are in [0, 1].

    Attributes:
        name: Who answered.
        success: Share of (context, edit) pairs for which every test is right at the first try.
        low: Of the 95 % interval of `success` over contexts.
        high: Of it.
        solved: Share of contexts in which all answers of the row, voting, get every test right: with one try, and with
            two, for which the second most frequent grid counts too. Second candidates of an answer are counted after
            all first ones.
        cells: Share of the cells that are right in first candidates; 0 for one of another shape or none at all.
        malformed: Share of the answers that are no grid; None where nothing answered.
        valid: Share of the edits that can be trained on; None for a row that is not about edits.
        contexts: How many.
        pairs: Of a context and an edit; repeats of one count once.
    """

    name: str
    success: float
    low: float | None
    high: float | None
    solved: tuple[float, ...]
    cells: float
    malformed: float | None
    valid: float | None
    contexts: int
    pairs: int


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """Valid self-edits with one choice and without it: how many, and their success rate, None where there are none."""

    name: str
    edits: int
    success: float | None
    others: int
    others_success: float | None


@dataclass(frozen=True, slots=True)
class ConfigurationRow:
    """What edits with the same choices came to on several contexts: how many contexts, and their success rate."""

    edit: str
    success: float
    low: float | None
    high: float | None
    contexts: int


# -- the table of rows -------------------------------------------------------------------------------------------------


def arc_rows(validations: Validations, *, resamples: int = 2000) -> list[ArcRow]:
    """The rows that the rollouts allow; bootstrap with a fixed seed.

    The rows of several validations are those of the first one, and the self-edits of each.
    """
    return [_row(name, rollouts, resamples) for name, rollouts in _by_row(validations).items()]


def _by_row(validations: Validations) -> dict[str, list[Rollout]]:
    """The rollouts that each row is about, with the row's answers as `answers`."""
    if not validations:
        return {}
    first = validations[min(validations)]
    rows = {IN_CONTEXT: _without_adapter(first), DEMONSTRATIONS: _of_kind(first, "passage")}
    for number in sorted(validations):
        rows[f"{EDITS}{_when(number, validations)}"] = _of_kind(validations[number], "edit")
    rows[FIXED] = _of_kind(first, "written")
    return {name: rollouts for name, rollouts in rows.items() if rollouts}


def _without_adapter(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """One rollout for each context, with what the policy answered as it was; whatever came of its edit."""
    firsts = [group[0] for group in by_context(rollouts).values()]
    return [
        replace(one, answers=one.baseline_answers, status="ok", reason="")
        for one in firsts
        if one.golds and one.baseline_answers
    ]


def _of_kind(rollouts: Sequence[Rollout], kind: Kind) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.kind == kind and rollout.golds]


def _when(number: int, validations: Validations) -> str:
    """Which validation; nothing where there is one only."""
    if len(validations) == 1:
        return ""
    return f" after round {number}" if number else " before training"


def _row(name: str, rollouts: Sequence[Rollout], resamples: int) -> ArcRow:
    groups = list(by_context(rollouts).values())
    successes = list(context_means(rollouts, _success).values())
    low, high = interval(successes, resamples=resamples)
    malformed = [bool(reason_of(answer)) for rollout in rollouts for answer in rollout.answers]
    return ArcRow(
        name=name,
        success=fmean(successes),
        low=low,
        high=high,
        solved=tuple(fmean(_solved(group, tries) for group in groups) for tries in range(1, TRIES + 1)),
        cells=fmean(context_means(rollouts, _cells).values()),
        malformed=fmean(malformed) if malformed else None,
        valid=fmean(rollout.status == "ok" for rollout in rollouts) if name not in NO_EDITS else None,
        contexts=len(groups),
        pairs=len(_edits(rollouts)),
    )


def _success(rollout: Rollout) -> bool:
    """Whether every test is right at the first try."""
    return bool(rollout.answers) and all(set(candidates(answer)[:1]) & right for answer, right in _tests(rollout))


def _solved(rollouts: Sequence[Rollout], tries: int) -> bool:
    """Whether the answers to one context, voting, have every test right within so many tries."""
    answers = [rollout.answers for rollout in rollouts if rollout.answers]
    rankings = [ranking(map(candidates, each)) for each in zip(*answers, strict=True)]
    rights = [right_answers(golds) for golds in rollouts[0].golds]
    return bool(rankings) and all(right & set(ranking[:tries]) for ranking, right in zip(rankings, rights, strict=True))


def _cells(rollout: Rollout) -> float:
    """The share of right cells, of all tests; the best over several right outputs."""
    if not rollout.answers:
        return 0.0
    return fmean(
        max((_agreement(grid, gold) for grid in candidates(answer)[:1] for gold in right), default=0.0)
        for answer, right in _tests(rollout)
    )


def _agreement(grid: str, gold: str) -> float:
    rows, wanted = grid.split("\n"), gold.split("\n")
    if [*map(len, rows)] != [*map(len, wanted)]:
        return 0.0
    return fmean(cell == right for cell, right in zip("".join(rows), "".join(wanted), strict=True))


def _tests(rollout: Rollout) -> Iterator[tuple[str, set[str]]]:
    """Each answer with the right ones."""
    return ((answer, right_answers(golds)) for answer, golds in zip(rollout.answers, rollout.golds, strict=True))


def _edits(rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """The repeats of each edit."""
    by_edit: dict[tuple[str, int], list[Rollout]] = {}
    for rollout in rollouts:
        by_edit.setdefault((rollout.context_id, rollout.edit_index), []).append(rollout)
    return list(by_edit.values())


# -- what self-edits chose ---------------------------------------------------------------------------------------------


def choice_rows(validations: Validations) -> list[ChoiceRow]:
    """Each family and each loss among the valid self-edits of the first validation and of the last one."""
    if not validations:
        return []
    usable = {
        _when(number, validations): [r for r in _of_kind(validations[number], "edit") if r.status == "ok"]
        for number in sorted({min(validations), max(validations)})
    }
    choices = [*((name, name, True) for name in FAMILIES), *((f"loss on {loss}", "loss", loss) for loss in LOSSES)]
    return [
        _choice_row(f"{name}{when}", rollouts, field, value)
        for name, field, value in choices
        for when, rollouts in usable.items()
        if rollouts
    ]


def _choice_row(name: str, rollouts: Sequence[Rollout], field: str, value: bool | str) -> ChoiceRow:
    sides: dict[bool, list[float]] = {True: [], False: []}
    for edit in _edits(rollouts):
        sides[edit[0].asked.get(field) == value].append(fmean(map(_success, edit)))
    chosen, others = sides[True], sides[False]
    return ChoiceRow(name, len(chosen), _mean(chosen), len(others), _mean(others))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def configuration_rows(
    validations: Validations, *, most: int = CONFIGURATIONS, resamples: int = 2000
) -> list[ConfigurationRow]:
    """The best whole configurations of the last validation that several contexts were adapted with, best first.

    Where every context is tried with every configuration (`configs/arc/search.yaml`), the first row is the fixed
    configuration to compare with.
    """
    by_edit: dict[str, list[Rollout]] = {}
    for rollout in _of_kind(validations[max(validations)], "edit") if validations else ():
        if rollout.status == "ok" and rollout.asked.keys() >= set(SCHEMA["required"]):
            edit = json.dumps({name: rollout.asked[name] for name in SCHEMA["required"]})
            by_edit.setdefault(edit, []).append(rollout)
    rows = [_configuration_row(edit, rollouts, resamples) for edit, rollouts in by_edit.items()]
    shared = [row for row in rows if row.contexts > 1]
    return sorted(shared, key=lambda row: (-row.success, -row.contexts))[:most]


def _configuration_row(edit: str, rollouts: Sequence[Rollout], resamples: int) -> ConfigurationRow:
    successes = list(context_means(rollouts, _success).values())
    low, high = interval(successes, resamples=resamples)
    return ConfigurationRow(edit, fmean(successes), low, high, len(successes))


# -- tables ------------------------------------------------------------------------------------------------------------


def arc_tables(validations: Validations) -> tuple[Table, ...]:
    """Rows, choices, configurations, and why edits were rejected and answers malformed; those that have any rows."""
    by_row = _by_row(validations)
    answers = (answer for rollouts in by_row.values() for rollout in rollouts for answer in rollout.answers)
    tables = (
        _rows_table(arc_rows(validations)),
        _choices_table(choice_rows(validations)),
        _configurations_table(configuration_rows(validations)),
        _reasons_table("rejected edits", (r.reason for rows in by_row.values() for (r, *_) in _edits(rows))),
        _reasons_table("malformed answers", map(reason_of, answers)),
    )
    return tuple(table for table in tables if table.rows)


def _rows_table(rows: Sequence[ArcRow]) -> Table:
    header = ("", "success of pairs", "95 % interval", "solved at 1 try", "at 2 tries", "cells right",
              "malformed answers", "valid edits", "contexts", "pairs")  # fmt: skip
    cells = (
        (row.name, row.success, say_interval(row.low, row.high, row.contexts), *row.solved, row.cells,
         _share(row.malformed), _share(row.valid), row.contexts, row.pairs)
        for row in rows
    )  # fmt: skip
    return Table("", header, tuple(cells))


def _choices_table(rows: Sequence[ChoiceRow]) -> Table:
    header = ("augmentations", "edits with it", "success", "edits without it", "success without it")
    cells = ((row.name, row.edits, _share(row.success), row.others, _share(row.others_success)) for row in rows)
    return Table("", header, tuple(cells))


def _configurations_table(rows: Sequence[ConfigurationRow]) -> Table:
    header = ("configurations on several contexts", "success", "95 % interval", "contexts")
    cells = ((row.edit, row.success, say_interval(row.low, row.high, row.contexts), row.contexts) for row in rows)
    return Table("", header, tuple(cells))


def _reasons_table(name: str, reasons: Iterable[str]) -> Table:
    """Each reason with how often it was given, the most frequent first."""
    counts = Counter(reason for reason in reasons if reason)
    return Table("", (name, "number"), tuple(counts.most_common()))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
