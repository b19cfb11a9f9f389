"""The result of a sweep: one table, printed and saved as `sweep.md` and `sweep.json`, and one figure, `sweep.svg`.

Means, intervals and differences are those of `seal report`. `sweep.json` holds the state of the runs and is saved
whenever one of them has ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

from seal_lightning.commands.sweep.running import SweepRun
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.progress.screen import duration
from seal_lightning.report.group_tables import render_groups, rows_of
from seal_lightning.report.groups import Group, group_runs
from seal_lightning.report.read import read
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.types import JsonObject

STATE = "sweep.json"


def summarise(folder: Path, runs: Sequence[SweepRun]) -> None:
    """Save and print the table and figure of the finished runs, and name those that failed."""
    from seal_lightning.report.page import render_figure

    groups = groups_of(runs)
    parts = [render_groups(groups), _times(runs)] if groups else []
    if failed := [f"- {run.name}: {markdown_cell(run.error, 300)}" for run in runs if run.state == "failed"]:
        said = f"Not in the table, because they failed: {len(failed)} of {len(runs)} runs."
        parts.append("\n".join([said, "", *failed]))
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


def groups_of(runs: Sequence[SweepRun]) -> list[Group]:
    """The finished runs by setting, in the order of the sweep, named like their folders."""
    finished = {str(run.folder): run for run in runs if run.state == "finished"}
    groups = []
    for group in group_runs([read(folder) for folder in finished]) if finished else []:
        name, *others = {finished[run.source].planned.setting for run in group.runs}
        # settings that mean the same keep the name that `seal report` gives them
        groups.append(group if others or not name else replace(group, name=name))
    return groups


def _times(runs: Sequence[SweepRun]) -> str:
    """How long the runs of each setting took."""
    by_setting: dict[str, list[float]] = {}
    for run in runs:
        if run.state == "finished" and run.seconds_in_all:
            by_setting.setdefault(run.setting, []).append(run.seconds_in_all)
    listed = "; ".join(f"{setting} {duration(fmean(seconds))}" for setting, seconds in by_setting.items())
    return f"Time of a run: {listed}." if listed else "Time of a run: unknown, because all were kept."


def _runs_table(runs: Sequence[SweepRun]) -> str:
    head = ("run", "state", "before training", "own edits", "time")
    cells = []
    for run in runs:
        rows = run.rows if run.state == "finished" else []
        first, last = (f"{rows[0].accuracy:.3f}", f"{rows[-1].accuracy:.3f}") if rows else ("", "")
        cells.append((run.name, run.state, first, last, duration(run.seconds_in_all) if run.seconds_in_all else ""))
    return to_markdown(Table("", head, tuple(cells)))


def save_state(folder: Path, runs: Sequence[SweepRun], groups: Sequence[Group] = ()) -> None:
    """Write `sweep.json`; runs of an earlier, larger grid stay in it.

    Raises:
        SavingError: The file cannot be written.
    """
    names = {run.name for run in runs}
    rows = [_row(run) for run in runs] + [row for row in _known(folder) if row["name"] not in names]
    settings = [
        {
            "setting": row.group.name,
            "runs": [run.name for run in row.group.runs],
            "base": asdict(row.group.base) if row.group.base else None,
            "edits": [asdict(level) for level in row.group.levels],
            "against_first": asdict(row.against) if row.against else None,
        }
        for row in (rows_of(groups) if groups else [])
    ]
    content = {"runs": rows, "settings": settings}
    save_text(folder / STATE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def known_seconds(folder: Path) -> dict[str, float]:
    """Seconds that the runs of a sweep took, as far as `sweep.json` has them."""
    return {str(row["name"]): float(str(row["seconds"])) for row in _known(folder)}


def _known(folder: Path) -> list[JsonObject]:
    """The rows of an earlier `sweep.json`; empty if it is not ours, which loses only the times."""
    try:
        rows = parse_json((folder / STATE).read_bytes())["runs"]
        return [row for row in rows if isinstance(row["name"], str) and isinstance(row["seconds"], int | float)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _row(run: SweepRun) -> JsonObject:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "values": dict(run.planned.values),
        "seed": run.planned.seed,
        "state": run.state,
        "exit_code": run.exit_code,
        "error": run.error,
        "seconds": round(run.seconds_in_all, 1),
        "accuracy": {row.name: row.accuracy for row in run.rows} if run.state == "finished" else {},
    }
