"""Files that are whole or absent: written aside, synced, and renamed to their place in one step.

A run may end at any moment (kill -9, a full disk, a power failure). Everything that a user or a resume relies on is
written through here, so that a name stands for the old content or for all of the new. Journals only grow, and have a
rule of their own (`records/journal.py`).

What is being written lies in a folder `.saving-HOST-PROCESS-RANDOM` beside its place, on the same file system. A
process that is killed leaves it there; `tidy` recognises it by its name and removes it. A folder cannot be renamed over
another, so its name is missing between two renames; if a process dies there, `tidy` restores the name.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seal_lightning.errors import SealError, reason_of

log = logging.getLogger(__name__)

NO_ROOM = {
    errno.ENOSPC: "make room (df -h, and df -i for the number of files)",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}
NOT_HERE = {
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
    errno.ENOTDIR: "choose another folder",
    errno.EEXIST: "choose another folder",
    errno.ENOENT: "check that its folder is still there",
    errno.EISDIR: "move the folder of this name away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another folder",
}
FULL_OR_BROKEN = {
    **NO_ROOM,
    errno.EROFS: NOT_HERE[errno.EROFS],
    errno.EIO: "check the disk",
    errno.ESTALE: "check that its disk is still mounted",
}
_REMEDIES = {**NOT_HERE, **FULL_OR_BROKEN, errno.EMFILE: "raise the limit on open files (ulimit -n)"}
_HOLDER = re.compile(r"\.saving-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
_ABANDONED = 24 * 3600.0  # seconds after which what another machine has begun to write counts as left behind
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES}  # of folders on some file systems


class SavingError(SealError, OSError):
    """A file cannot be written; what was there before is still there.

    Attributes:
        cause: The system's own error.
    """

    def __init__(self, message: str, cause: OSError) -> None:
        super().__init__(message)
        self.cause = cause


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new name to write a file or a folder under, which takes the place of `path` at the end of the block.

    If the block fails, what it has written is removed and `path` is as it was. A file keeps the permissions of the one
    before. A link is replaced; what it leads to is not touched. Folders above `path` are made.

    Raises:
        SavingError: Writing failed; the message names the file and a remedy.
    """
    path = Path(path)
    with _explained(path), _aside(path.parent) as holder:
        new = holder / "new" / path.name
        yield new
        _keep_mode(path, new)
        _sync_all(new)
        _put(new, path, old=holder / "old" / path.name)
        _sync(path.parent)


@contextmanager
def whole_files(folder: str | os.PathLike[str], *, lasting: bool = True) -> Iterator[Path]:
    """A folder to write files into, each of which takes its place in `folder` at the end of the block.

    Other files in `folder` stay. Unless they are to be `lasting`, the disk need not have them yet. Raises as `whole`.
    """
    folder = Path(folder)
    with _explained(folder), _aside(folder) as holder:
        yield holder / "new"
        if lasting:
            _sync_all(holder / "new")
        for new in sorted((holder / "new").iterdir()):
            _keep_mode(folder / new.name, new)
            _put(new, folder / new.name, old=holder / "old" / new.name)
        if lasting:
            _sync(folder)


def save_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, whole or not at all; half a surrogate pair becomes a question mark. Raises as `whole`."""
    save_bytes(path, text.encode(errors="replace"))


def save_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes, whole or not at all. Raises as `whole`."""
    with whole(path) as aside:
        aside.write_bytes(content)


def move(path: Path, to: Path) -> None:
    """Give a file or a folder another name on the same file system, replacing what has that name. Raises as `whole`."""
    with _explained(to), _aside(to.parent) as holder:
        _put(path, to, old=holder / "old" / to.name)
        _sync(to.parent)


def tidy(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half written in a folder and below, and finish what was almost in place.

    What a living process is writing, or another machine began less than a day ago, is left alone.
    """
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if _HOLDER.fullmatch(name)]:
            names.remove(name)
            holder = Path(place) / name
            if not holder.is_symlink() and _is_left_behind(holder):
                with suppress(OSError):  # another rank may be doing the same
                    _restore(holder)
                shutil.rmtree(holder, ignore_errors=True)


def is_used(folder: Path, *, besides: str = "") -> bool:
    """Whether a folder holds anything but half-written files and a file of the name `besides`."""
    return any(path.name != besides and not _HOLDER.fullmatch(path.name) for path in folder.iterdir())


def cannot_save(path: str | os.PathLike[str], error: OSError) -> SavingError:
    """The error, in one line, about a file that cannot be written."""
    remedy = _REMEDIES.get(error.errno or 0, "check the folder")
    return SavingError(f"{path}: {reason_of(error)}: {remedy} and start again; what was there before is kept", error)


def disk_error(error: BaseException) -> OSError | None:
    """The system's error about a disk, perhaps behind one that a library has made of it; None for other errors."""
    if isinstance(error, SavingError):
        return error.cause
    if isinstance(error, OSError):
        return error if error.errno in _REMEDIES else None
    if isinstance(error, SealError):
        return None
    if number := re.search(r"\(os error (\d{1,4})\)", str(error)):  # Rust's wording: safetensors, tokenizers
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return disk_error(error.__cause__) if error.__cause__ else None


# -- steps -------------------------------------------------------------------------------------------------------------


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name the file that cannot be written, whatever exception a library raises for that; other errors pass."""
    try:
        yield
    except Exception as error:
        cause = disk_error(error)
        if cause is None or _is_of_another(cause, path):
            raise
        raise cannot_save(path, cause) from error


def _is_of_another(error: OSError, path: Path) -> bool:
    """Whether an error is about a file read in the meantime, and not about `path` or a folder above it."""
    if error.filename is None or error.errno in NO_ROOM:
        return False
    name = os.fsdecode(error.filename)
    return not name.startswith((f"{path}", f"{path.parent / '.saving-'}")) and Path(name) not in path.parents


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, which is gone at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f".saving-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        (holder / "new").mkdir(parents=True)
        yield holder
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _put(new: Path, path: Path, *, old: Path) -> None:
    if not (new.is_dir() and os.path.lexists(path)):
        new.replace(path)
        return
    try:  # a folder cannot be renamed over anything, so what is there is moved first
        old.parent.mkdir(exist_ok=True)
        path.rename(old)
        new.rename(path)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        raise


def _keep_mode(path: Path, new: Path) -> None:
    """Keep the permissions of the file before. Raises `PermissionError` if that is write-protected."""
    if path.is_symlink() or not path.is_file():
        return
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with suppress(OSError):  # a file system without permissions
        new.chmod(stat.S_IMODE(path.stat().st_mode))


def _sync_all(new: Path) -> None:
    for path in [*new.rglob("*"), new] if new.is_dir() else [new]:
        _sync(path)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if path.is_symlink():
        return
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not (is_folder and error.errno in _NO_SYNC):
            raise


# -- what was left behind ----------------------------------------------------------------------------------------------


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _is_left_behind(holder: Path) -> bool:
    """Whether nobody writes there any more: its process is gone, or ran long ago on another machine."""
    name = _HOLDER.fullmatch(holder.name)
    assert name is not None, "the caller has looked"
    if name[1] == _host():
        try:
            os.kill(int(name[2]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # somebody else's process is alive
            return False
        return int(name[2]) == os.getpid()
    try:
        return time.time() - holder.stat().st_mtime > _ABANDONED
    except OSError:
        return False


def _restore(holder: Path) -> None:
    """Put a folder in place whose name is missing: the new one, which is whole once the old one was moved."""
    if any((holder / name).is_symlink() for name in ("old", "new")):
        return  # not ours: what lies elsewhere stays there
    for old in (holder / "old").glob("*"):
        place, new = holder.parent / old.name, holder / "new" / old.name
        if not os.path.lexists(place):
            (new if os.path.lexists(new) else old).rename(place)
            log.warning("%s is back in its place: a process was killed while replacing it", place)
