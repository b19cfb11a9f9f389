"""The runs that a user means: those named, and with each the runs in its folder, such as a control or a sweep's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.bounded import parse_json
from seal_lightning.errors import DataError
from seal_lightning.report.read import Run, read

OF_A_RUN = ("config*.yaml", "journal", "*.jsonl", "retention.json")  # one of these is in a run's folder
OF_A_SWEEP = "sweep.json"  # its state, with the runs in their order
BESIDE = (OF_A_SWEEP, "sweep.md", "sweep.svg", "report.html", "report.md")  # of the sweep itself, in no run


def read_all(sources: Sequence[str]) -> list[Run]:
    """Read every source, each once, and the runs that lie in it; a folder of runs may be none itself.

    The tables of a sweep, which `runs/sweep/*` names too, are no runs of their own.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    found: dict[Path, Run] = {}
    for source in sources:
        place = Path(source).expanduser()
        if len(sources) > 1 and _is_beside(place):
            continue
        inside = _inside(place)
        try:
            found.setdefault(place.resolve(), read(source))
        except DataError:
            if not inside or _is_run(place):
                raise  # it is no folder of runs
        for folder in inside:
            found.setdefault(folder.resolve(), read(str(folder)))
    return list(found.values())


def _is_beside(place: Path) -> bool:
    return place.name in BESIDE and place.is_file() and (place.parent / OF_A_SWEEP).is_file()


def _inside(place: Path) -> list[Path]:
    """Run folders in a folder: a sweep's in its order, then others by name. What a link leads to is not in it."""
    if not place.is_dir():
        return []
    order = _order(place / OF_A_SWEEP)
    runs = [one for one in sorted(place.iterdir()) if one.is_dir() and not one.is_symlink() and _is_inner_run(one)]
    return sorted(runs, key=lambda run: order.index(run.name) if run.name in order else len(order))


def _is_inner_run(folder: Path) -> bool:
    """Whether a folder has settings and a journal, as all commands leave them."""
    return (folder / "journal").is_dir() and any(folder.glob("config*.yaml"))


def _is_run(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in OF_A_RUN)


def _order(path: Path) -> list[str]:
    try:
        return [str(row["name"]) for row in parse_json(path.read_bytes())["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
