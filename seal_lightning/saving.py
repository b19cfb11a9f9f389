"""Files that are whole or absent: written aside, synced, and renamed to their place in one step.

A run may end at any moment (kill -9, a full disk, a failure of power). Whatever a user or a resume relies on is written
through here, so that under its name stands what was there before, or all of the new content. Journals only grow, and
keep to a rule of their own (`journal.py`).
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seal_lightning.errors import SealError

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
}


class SavingError(SealError, OSError):
    """A file cannot be written; under its name stands what was there before."""


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new name to write a file or a folder under, which takes the place of `path` at the end of the block.

    Where the block fails, what it has written is removed and `path` is as it was.

    Raises:
        SavingError: It cannot be written; the message names the file and a remedy.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield aside
        for file in [aside, *aside.rglob("*")] if aside.is_dir() else [aside]:
            _sync(file)
        if path.is_dir():
            _replace_folder(path, aside)
        else:
            aside.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, SealError):
            raise cannot_save(path, error) from error
        raise


def save_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, whole or not at all; halves of surrogate pairs become question marks.

    Raises:
        SavingError: It cannot be written.
    """
    save_bytes(path, text.encode(errors="replace"))


def save_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes, whole or not at all. Raises as `save_text`."""
    with whole(path) as aside:
        aside.write_bytes(content)


def cannot_save(path: str | os.PathLike[str], error: OSError) -> SavingError:
    """The one line about a file that cannot be written."""
    remedy = _REMEDIES.get(error.errno or 0, "check the folder")
    return SavingError(f"{path}: {error.strerror or error}: {remedy} and start again; what was there before is kept")


def _replace_folder(path: Path, aside: Path) -> None:
    """A folder cannot be renamed over another that has files: the old one makes way first."""
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    path.rename(old)
    aside.rename(path)
    shutil.rmtree(old)


def _sync(path: Path) -> None:
    """Onto the disk, with a folder's list of names, too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to sync
            raise
    finally:
        os.close(handle)
