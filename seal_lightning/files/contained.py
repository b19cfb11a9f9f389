"""Files of a folder that somebody else has made: no link and no name in it may lead out of it.

The user names the folder, perhaps by a link to it; what lies within is not the user's.
"""

from __future__ import annotations

from pathlib import Path

from seal_lightning.errors import DataError, SealError
from seal_lightning.files.bounded import special_kind


def contained(folder: Path, name: str | Path, *, error: type[SealError] = DataError) -> Path:
    """The path of a file within a folder.

    Args:
        folder: The folder as the user named it. One of the hub's cache may link to the blobs beside its snapshots.
        name: The file's name, relative to the folder.
        error: What is raised.

    Raises:
        SealError: The file is not within the folder; the message names both ends.
    """
    path = folder / name
    if not leads_out(path, folder):
        return path
    raise error(
        f"{path}: expected a file of that folder, got a link or a name that leads to {path.resolve()}; copy the file "
        "into its place if it belongs there"
    )


def check_regular(folder: Path, *, error: type[SealError] = DataError) -> None:
    """Raises `error` where a folder holds a pipe, a socket or a device, which would be waited for without end."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.exists() and (kind := special_kind(file)):
            raise error(f"{file}: expected a file, got {kind}: move it away")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path that begins with `folder` ends outside it, or nowhere because its links go in a circle."""
    try:
        place = folder.resolve()
        whole = place.parent.parent if place.parent.name == "snapshots" else place  # the repository in the hub's cache
        return not path.resolve().is_relative_to(whole)
    except (OSError, RuntimeError):
        return True
