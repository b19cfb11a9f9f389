"""One owner per folder: a process that writes into a folder of results holds its lock, and others are told who does.

The lock is the kernel's (flock, by way of filelock): it ends with its process, however that ends, and forked children
do not hold it. It is on a small file in the folder, which names the owner and is removed when the owner has finished;
one that a killed process left behind does not block anybody. If a command is refused, the folder stays as it was.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from seal_lightning.errors import ConfigError, SealError, reason_of
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import cannot_save

log = logging.getLogger(__name__)

OWNER = ".owner"  # the file's name
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 2000  # characters of an owner's file that are read
# Seconds to wait for the lock: while its owner works; while one that was killed on this machine is being cleared away;
# and after SLURM requeued this job, when the file server may first have to give up the machine it ran on before.
_AT_WORK, _ENDING, _REQUEUED = 1.0, 30.0, 180.0
_TRIES = 10  # at a file that others remove and make again


class FolderInUse(ConfigError):
    """Another process writes into the folder; the message names it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes into a folder.

    Attributes:
        host: Name of the machine.
        process: The process number there.
        since: Date and time at which it took the folder.
        command: Name of the command, without its options, which may hold keys.
        job: SLURM's job number, empty outside SLURM.
    """

    host: str
    process: int
    since: str
    command: str
    job: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.process) == (socket.gethostname(), os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether its process is known to be gone, or has given up its memory and is about to go."""
        if self.host != socket.gethostname():
            return False
        try:
            return not Path(f"/proc/{self.process}/cmdline").read_bytes()
        except OSError:
            return Path("/proc/self").exists()

    def __str__(self) -> str:
        return f"{self.command}, process {self.process} on {self.host}, since {self.since}"


@contextmanager
def owning(folder: Path, *, option: str) -> Iterator[None]:
    """Within the block, no other process (nor another thread of this one) can own `folder`; it is made if missing.

    Blocks may be nested. On a file system without locks, a warning says so and the block runs anyway.

    Args:
        folder: Where results are written.
        option: The option that named it, with its value, for messages.

    Raises:
        FolderInUse: Somebody else owns the folder.
        ConfigError: The folder cannot be written to.
        SavingError: The disk is full.
    """
    made: list[Path] = []
    path, before = folder.resolve() / OWNER, b""
    try:
        _make(folder, made)
        before = _read(path)
        lock = FileLock(path, is_singleton=True, fallback_to_soft=False, on_acquired=_sign)
        nested, held = lock.is_locked, _acquire(lock, path, option)
    except OSError as error:
        if before is None and _read(path) == b"":  # made but not signed
            path.unlink()
        _remove(made)
        if error.errno in _FULL:
            raise cannot_save(folder, error) from error
        raise ConfigError(f"{option}: {reason_of(error)}; choose a folder you can write to") from error
    except BaseException:
        _remove(made)
        raise
    left = _parse(before) if held and not nested else None
    if left is not None and left.host != socket.gethostname():  # it may have been killed, or still be at work
        log.warning(
            "%s: was left by %s; if that is still running, locks do not work between these machines: stop it",
            option, left,
        )  # fmt: skip
    refused = False
    try:
        yield
    except SealError as error:
        refused = error.exit_code == 2
        raise
    finally:
        if not nested:
            _leave(path, before if refused else b"")
        if held:
            lock.release()
        _remove(made)


@contextmanager
def taking_turns(path: Path, *, pause: Callable[[float], None]) -> Iterator[None]:
    """Within the block, no other process is in one with the same `path`; they wait for their turn.

    Args:
        path: A file that serves nothing else, and is gone afterwards.
        pause: Waits for so many seconds; may raise if nobody waits any more.
    """
    lock = FileLock(path, fallback_to_soft=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = False
    while not held:
        try:
            lock.acquire(blocking=False)
            held = True
        except Timeout:
            pause(1.0)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s: this file system has no locks (%s), so turns are not taken", path.parent, error.strerror)
            break
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is given up: those who wait look for a new file then
        if held:
            lock.release()


# -- the lock ----------------------------------------------------------------------------------------------------------


def _acquire(lock: FileLock, path: Path, option: str) -> bool:
    """Whether the lock is held now; False if this file system has no locks."""
    try:
        _wait(lock, path, _AT_WORK)
    except Timeout:
        owner = read_owner(path)
        try:
            _wait(lock, path, _patience(owner))
        except Timeout:
            who = owner or "another process, which has not given its name"
            raise FolderInUse(
                f"{option}: in use by {who}: wait until it has ended, or choose another folder. Nothing was changed"
            ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "%s: this file system has no locks (%s), so nothing keeps a second run out of this folder: make sure "
            "yourself that none is started", option, error.strerror,
        )  # fmt: skip
        return False
    return True


def _wait(lock: FileLock, path: Path, seconds: float) -> None:
    """Raises `Timeout` if the lock is not free after so many seconds."""
    until = time.monotonic() + seconds
    for _ in range(_TRIES):
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
        owner = read_owner(path)
        if owner is not None and owner.is_here:
            return
        lock.release()  # the locked file is one that its owner has removed in the meantime
    raise Timeout(str(path))


def _patience(owner: Owner | None) -> float:
    if owner is None:
        return 0.0
    if owner.job and owner.job == os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_RESTART_COUNT"):
        return _REQUEUED
    return _ENDING if owner.has_ended else 0.0


# -- the file ----------------------------------------------------------------------------------------------------------


def read_owner(path: Path) -> Owner | None:
    """Whoever signed the file last; None if nobody did, or it cannot be read."""
    return _parse(_read(path))


def _sign(fd: int) -> None:
    """Write this process into the file, which is locked now."""
    if os.fstat(fd).st_nlink > 1:
        raise ConfigError(f"{OWNER}: the file has a second name elsewhere, which would be overwritten: remove it")
    me = Owner(
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        command=_command(),
        job=os.environ.get("SLURM_JOB_ID", ""),
    )
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(asdict(me)).encode(), 0)


def _command() -> str:
    path = Path(sys.argv[0] if sys.argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.name
    if name in ("seal", "seal_lightning"):
        return " ".join(["seal", *sys.argv[1:2]])
    return name if name and not name.startswith("-") else "python"


def _read(path: Path) -> bytes | None:
    """The content of the file; None if there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(handle, _LONGEST)
    except OSError:
        return None
    finally:
        os.close(handle)


def _parse(content: bytes | None) -> Owner | None:
    try:
        row = parse_json(content or b"")
        texts = {name: str(row[name])[:100] for name in ("host", "since", "command", "job")}
        return Owner(process=int(row["process"]), **texts)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _leave(path: Path, before: bytes | None) -> None:
    """Restore the content from before, or remove the file; one that somebody else has put in its place stays."""
    owner = read_owner(path)
    if _read(path) and (owner is None or not owner.is_here):
        return
    with suppress(OSError):
        if before:
            path.write_bytes(before)
        else:
            path.unlink()


# -- folders -----------------------------------------------------------------------------------------------------------


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it; `made` gets the new ones, the outermost first."""
    missing = [*takewhile(lambda place: not place.exists(), [folder, *folder.parents])]
    for place in reversed(missing):
        with suppress(FileExistsError):  # by another process, a moment ago
            place.mkdir()
            made.append(place)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _remove(made: list[Path]) -> None:
    """Remove folders that were made and are still empty."""
    for folder in reversed(made):
        with suppress(OSError):
            folder.rmdir()
