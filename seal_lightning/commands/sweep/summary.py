"""What a sweep comes to: one table, printed and saved as `sweep.md` and `sweep.json`, and one figure, `sweep.svg`.

Means, intervals and differences are those of `seal report`. The state of the runs is saved in `sweep.json` whenever one
of them has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from seal_lightning.commands.sweep.running import Run
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.progress.screen import duration
from seal_lightning.report.group_tables import render_figure, render_groups, rows_of
from seal_lightning.report.groups import Group, group_runs
from seal_lightning.report.read import read
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell

STATE = "sweep.json"
WRITTEN = (STATE, "sweep.md", "sweep.svg")  # in the folder of a sweep, beside the runs


def summarise(folder: Path, runs: Sequence[Run]) -> None:
    """Save and print the table and the figure of the runs that are finished; those that failed are named."""
    groups = groups_of(runs)
    parts = [render_groups(groups)] if groups else []
    parts += [_times(runs)] if groups else []
    parts += [_failures(runs)] if any(run.state == "failed" for run in runs) else []
    text = "\n\n".join(parts)
    figure = render_figure(groups) if groups else ""
    save_text(folder / "sweep.md", f"{text}\n\n{_runs_table(runs)}\n")
    save_state(folder, runs, groups)
    if figure:
        save_text(folder / "sweep.svg", figure)
    print(f"\n{text}\n")
    drawn = ", and the figure in sweep.svg" if figure else ""
    print(f"saved: {folder / 'sweep.md'} and .json{drawn}")
    print(f"next: seal report {folder}", flush=True)


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The finished runs by setting, in the order of the sweep, called as their folders are."""
    finished = {str(run.folder): run for run in runs if run.state == "finished"}
    groups = group_runs([read(folder) for folder in finished]) if finished else []
    return [_named(group, {finished[run.source].planned.setting for run in group.runs}) for group in groups]


def _named(group: Group, settings: set[str]) -> Group:
    """Values that mean the same are one setting, which keeps the name that `seal report` has for it."""
    (name, *others) = settings
    return group if others or not name else replace(group, name=name)


# -- parts of the table ------------------------------------------------------------------------------------------------


def _times(runs: Sequence[Run]) -> str:
    """How long the runs of each setting have taken."""
    by_setting: dict[str, list[float]] = {}
    for run in runs:
        if run.state == "finished" and run.seconds_in_all:
            by_setting.setdefault(run.planned.setting or "all", []).append(run.seconds_in_all)
    listed = "; ".join(f"{setting} {duration(fmean(seconds))}" for setting, seconds in by_setting.items())
    return f"Time of a run: {listed}." if listed else "Time of a run: not known, all were kept."


def _failures(runs: Sequence[Run]) -> str:
    lines = [f"- {run.name}: {markdown_cell(run.error, 300)}" for run in runs if run.state == "failed"]
    return "\n".join([f"Not in the table, since they failed: {len(lines)} of {len(runs)} runs.", "", *lines])


def _runs_table(runs: Sequence[Run]) -> str:
    head = ("run", "state", "before training", "own edits", "time")
    cells = []
    for run in runs:
        rows = run.rows() if run.state == "finished" else []
        first, last = (f"{rows[0].accuracy:.3f}", f"{rows[-1].accuracy:.3f}") if rows else ("", "")
        cells.append((run.name, run.state, first, last, duration(run.seconds_in_all) if run.seconds_in_all else ""))
    return to_markdown(Table("", head, tuple(cells)))


# -- the file of the state ---------------------------------------------------------------------------------------------


def save_state(folder: Path, runs: Sequence[Run], groups: Sequence[Group] = ()) -> None:
    """Write `sweep.json`; runs of an earlier, larger grid stay in it.

    Raises:
        SavingError: It cannot be written.
    """
    names = {run.name for run in runs}
    rows = [_row(run) for run in runs] + [row for row in _known(folder) if row["name"] not in names]
    content = {"runs": rows, "settings": [_group_row(row) for row in rows_of(groups)] if groups else []}
    save_text(folder / STATE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def known_seconds(folder: Path) -> dict[str, float]:
    """What the runs of a sweep took, as far as it has written that down."""
    return {row["name"]: float(row["seconds"]) for row in _known(folder)}


def _known(folder: Path) -> list[dict[str, Any]]:
    """The rows of an earlier `sweep.json`; none where it is none of ours, which costs the times only."""
    try:
        rows = parse_json((folder / STATE).read_bytes())["runs"]
        return [row for row in rows if isinstance(row["name"], str) and isinstance(row["seconds"], int | float)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _row(run: Run) -> dict[str, Any]:
    rows = run.rows() if run.state == "finished" else []
    return {
        "name": run.name,
        "folder": str(run.folder),
        "values": dict(run.planned.values),
        "seed": run.planned.seed,
        "state": run.state,
        "exit_code": run.exit_code,
        "error": run.error,
        "seconds": round(run.seconds_in_all, 1),
        "accuracy": {row.name: row.accuracy for row in rows},
    }


def _group_row(row: Any) -> Mapping[str, Any]:
    group = row.group
    return {
        "setting": group.name,
        "runs": [run.name for run in group.runs],
        "base": asdict(group.base) if group.base else None,
        "edits": [asdict(level) for level in group.levels],
        "against_first": asdict(row.against) if row.against else None,
    }
