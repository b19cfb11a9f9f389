"""Tables of ARC beside accuracy: success rates of (context, edit) pairs (SEAL, section 4.1), and what edits chose.

    validations -> the rollouts of each row -> tables

A grid is right if every cell is; a rejected edit fails. As in `results/accuracy.py`, values are averaged within
contexts first, and the bootstrap draws contexts. Contexts without tests are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean

from seal_lightning.results.averages import by_context, by_edit, context_means, interval, say_interval
from seal_lightning.results.table import Cell, Table
from seal_lightning.tasks.arc.answers import TRIES, candidates, ranking, reason_of, right_answers
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import LOSSES, SCHEMA
from seal_lightning.types import Kind, Rollout

Validations = Mapping[int, Sequence[Rollout]]  # by the number of rounds before them
IN_CONTEXT, DEMONSTRATIONS, EDITS, FIXED = "in-context", "demonstrations alone", "self-edits", "fixed configuration"
NO_EDITS = (IN_CONTEXT, DEMONSTRATIONS)
CONFIGURATIONS = 8  # shown


# -- who answered how well ---------------------------------------------------------------------------------------------


def rows_table(validations: Validations) -> Table:
    """One row for each way to answer that the rollouts have: those of the first validation, and each one's self-edits.

    Success is the share of (context, edit) pairs for which every test is right at the first try; repeats of an edit are
    one pair. A context is solved if all answers of the row, voting, get every test right: with one try, and with two,
    for which the second most frequent grid counts too. Second candidates of an answer are counted after all first ones.
    Right cells are those of first candidates; a grid of another shape, or none at all, has none. The bootstrap has a
    fixed seed.
    """
    header = ("", "success of pairs", "95 % interval", "solved at 1 try", "at 2 tries", "cells right",
              "malformed answers", "valid edits", "contexts", "pairs")  # fmt: skip
    return Table("", header, tuple(_row(name, rollouts) for name, rollouts in _by_row(validations).items()))


def _by_row(validations: Validations) -> dict[str, list[Rollout]]:
    """The rollouts of each row, with the row's answers as `answers`."""
    if not validations:
        return {}
    first = validations[min(validations)]
    answered = [group[0] for group in by_context(first).values() if group[0].golds and group[0].baseline_answers]
    rows = {
        IN_CONTEXT: [replace(r, answers=r.baseline_answers, status="ok", reason="") for r in answered],
        DEMONSTRATIONS: _of_kind(first, "passage"),
    }
    for number in sorted(validations):
        rows[f"{EDITS}{_when(number, validations)}"] = _of_kind(validations[number], "edit")
    rows[FIXED] = _of_kind(first, "written")
    return {name: rollouts for name, rollouts in rows.items() if rollouts}


def _of_kind(rollouts: Sequence[Rollout], kind: Kind) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.kind == kind and rollout.golds]


def _when(number: int, validations: Validations) -> str:
    """Which validation, in words; nothing where there is only one."""
    if len(validations) == 1:
        return ""
    return f" after round {number}" if number else " before training"


def _row(name: str, rollouts: Sequence[Rollout]) -> tuple[Cell, ...]:
    groups = list(by_context(rollouts).values())
    successes = list(context_means(rollouts, _success).values())
    malformed = [bool(reason_of(answer)) for rollout in rollouts for answer in rollout.answers]
    valid = [rollout.status == "ok" for rollout in rollouts] if name not in NO_EDITS else []
    return (
        name,
        fmean(successes),
        say_interval(*interval(successes), len(groups)),
        *(fmean(_solved(group, tries) for group in groups) for tries in range(1, TRIES + 1)),
        fmean(context_means(rollouts, _cells).values()),
        _share(malformed),
        _share(valid),
        len(groups),
        len(by_edit(rollouts)),
    )


def _success(rollout: Rollout) -> bool:
    """Whether every test is right at the first try."""
    return bool(rollout.answers) and all(set(candidates(answer)[:1]) & right for answer, right in _tests(rollout))


def _solved(rollouts: Sequence[Rollout], tries: int) -> bool:
    """Whether the answers to one context, voting, get every test right within `tries`."""
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


# -- tables ------------------------------------------------------------------------------------------------------------


def arc_tables(validations: Validations) -> tuple[Table, ...]:
    """Rows, choices, configurations, and why edits were rejected and answers malformed; those that have any rows."""
    by_row = _by_row(validations)
    answers = (answer for rollouts in by_row.values() for rollout in rollouts for answer in rollout.answers)
    tables = (
        rows_table(validations),
        choices_table(validations),
        configurations_table(validations),
        _reasons_table("rejected edits", (r.reason for rows in by_row.values() for (r, *_) in by_edit(rows))),
        _reasons_table("malformed answers", map(reason_of, answers)),
    )
    return tuple(table for table in tables if table.rows)


def choices_table(validations: Validations) -> Table:
    """Each augmentation and each loss among the valid self-edits of the first and of the last validation."""
    header = ("augmentations", "edits with it", "success", "edits without it", "success without it")
    ends = sorted({min(validations), max(validations)}) if validations else []
    usable = {
        _when(end, validations): [r for r in _of_kind(validations[end], "edit") if r.status == "ok"] for end in ends
    }
    choices = [*((name, name, True) for name in FAMILIES), *((f"loss on {loss}", "loss", loss) for loss in LOSSES)]
    rows = []
    for (name, field, value), (when, rollouts) in product(choices, usable.items()):
        sides: dict[bool, list[float]] = {True: [], False: []}
        for edit in by_edit(rollouts):
            sides[edit[0].asked.get(field) == value].append(fmean(map(_success, edit)))
        if rollouts:
            shares = [(len(side), _share(side)) for side in sides.values()]
            rows.append((f"{name}{when}", *shares[0], *shares[1]))
    return Table("", header, tuple(rows))


def configurations_table(validations: Validations) -> Table:
    """The best whole configurations of the last validation that several contexts were adapted with, best first.

    Where every context is tried with every configuration (`configs/arc/search.yaml`), the first row is the fixed
    configuration to compare with.
    """
    alike: dict[str, list[Rollout]] = {}
    for rollout in _of_kind(validations[max(validations)], "edit") if validations else ():
        if rollout.status == "ok" and rollout.asked.keys() >= set(SCHEMA["required"]):
            edit = json.dumps({name: rollout.asked[name] for name in SCHEMA["required"]})
            alike.setdefault(edit, []).append(rollout)
    rows = []
    for edit, rollouts in alike.items():
        successes = list(context_means(rollouts, _success).values())
        if (count := len(successes)) > 1:
            rows.append((edit, fmean(successes), say_interval(*interval(successes), count), count))
    rows.sort(key=lambda row: (-row[1], -row[3]))
    header = ("configurations on several contexts", "success", "95 % interval", "contexts")
    return Table("", header, tuple(rows[:CONFIGURATIONS]))


def _reasons_table(name: str, reasons: Iterable[str]) -> Table:
    """Each reason with how often it was given, the most frequent first."""
    counts = Counter(reason for reason in reasons if reason)
    return Table("", (name, "number"), tuple(counts.most_common()))


def _share(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" if values else "–"
