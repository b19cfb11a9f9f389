"""Which runs a report is about, where a folder is named that is no run and holds some, as that of `seal sweep` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.bounded import parse_json

OF_A_RUN = ("config*.yaml", "journal", "*.jsonl", "retention.json")  # one of these is in a run's folder
OF_A_SWEEP = "sweep.json"  # its state, with the runs in their order
BESIDE = (OF_A_SWEEP, "sweep.md", "sweep.svg", "report.html", "report.md")  # of the sweep itself, in no run


def run_sources(named: Sequence[str]) -> list[str]:
    """What was named, each once, with the runs in place of a folder of runs.

    The tables of a sweep, which `runs/sweep/*` names too, are no runs of their own.
    """
    found: list[str] = []
    for name in named:
        place = Path(name).expanduser()
        if place.name in BESIDE and place.is_file() and len(named) > 1 and (place.parent / OF_A_SWEEP).is_file():
            continue
        found += [str(run) for run in _runs_in(place)] or [name]
    return list(dict.fromkeys(found))


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder that is none itself: those of a sweep in its order, then others by name."""
    if not folder.is_dir() or _is_run(folder):
        return []
    order = _order(folder / OF_A_SWEEP)
    runs = [place for place in sorted(folder.iterdir()) if place.is_dir() and _is_run(place)]
    return sorted(runs, key=lambda run: order.index(run.name) if run.name in order else len(order))


def _is_run(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in OF_A_RUN)


def _order(path: Path) -> list[str]:
    try:
        return [str(row["name"]) for row in parse_json(path.read_bytes())["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
