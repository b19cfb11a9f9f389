"""The runs that a user means: those named, and with each the runs that lie in its folder, such as a control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.errors import DataError
from seal_lightning.files.bounded import parse_json, read_bytes
from seal_lightning.files.contained import contained
from seal_lightning.report.read import Run, read

SWEEP = "sweep.json"  # the state of a sweep, beside its runs
BESIDE = (SWEEP, "sweep.md", "sweep.svg", "report.html", "report.md")  # no runs, and RUNS/* names them too


def read_all(sources: Sequence[str]) -> list[Run]:
    """Read every source, each once, and the runs that lie in it; a folder of runs may be none itself.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    found: dict[Path, Run] = {}
    for source in sources:
        place = Path(source).expanduser()
        if len(sources) > 1 and place.name in BESIDE and (place.parent / SWEEP).is_file():
            continue
        inside = _inside(place)
        try:
            found.setdefault(place.resolve(), read(source))
        except DataError:
            if not inside or _is_run(place):
                raise  # not a folder of runs
        for folder in inside:
            found.setdefault(folder.resolve(), read(str(folder)))
    return list(found.values())


def _inside(place: Path) -> list[Path]:
    """Run folders in a folder, of a sweep in its order; what a link leads to is not in it."""
    if not place.is_dir():
        return []
    runs = [one for one in sorted(place.iterdir()) if one.is_dir() and not one.is_symlink() and _is_run(one)]
    order = _order(place / SWEEP)
    return sorted(runs, key=lambda run: order.index(run.name) if run.name in order else len(order))


def _order(path: Path) -> list[str]:
    """The names of a sweep's runs; empty without a sweep, or where it is damaged.

    Raises:
        DataError: The file is a link to one elsewhere, or a pipe.
    """
    if not path.exists():
        return []
    content = read_bytes(contained(path.parent, path.name))
    try:
        return [str(row["name"]) for row in parse_json(content)["runs"]]
    except (ValueError, KeyError, TypeError):
        return []


def _is_run(folder: Path) -> bool:
    """Whether a folder has settings and a journal, as all commands leave them."""
    return (folder / "journal").is_dir() and any(folder.glob("config*.yaml"))
