"""The runs that a user means: those named, and with each the runs that lie in its folder, such as a control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.errors import DataError
from seal_lightning.report.read import Run, read


def read_all(sources: Sequence[str]) -> list[Run]:
    """Read every source, each once, and the runs that lie in it; a folder of runs may be none itself.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    found: dict[Path, Run] = {}
    for source in sources:
        place = Path(source).expanduser()
        inside = _inside(place)
        try:
            found.setdefault(place.resolve(), read(source))
        except DataError:
            if not inside or _is_run(place):
                raise  # it is no folder of runs
        for folder in inside:
            found.setdefault(folder.resolve(), read(str(folder)))
    return list(found.values())


def _inside(place: Path) -> list[Path]:
    """Run folders in a folder; what a link leads to is not in it."""
    if not place.is_dir():
        return []
    return [one for one in sorted(place.iterdir()) if one.is_dir() and not one.is_symlink() and _is_run(one)]


def _is_run(folder: Path) -> bool:
    """Whether a folder has settings and a journal, as all commands leave them."""
    return (folder / "journal").is_dir() and any(folder.glob("config*.yaml"))
