"""Replies on disk, one small JSON file each, named by what was asked.

Several processes may share a folder: a file appears whole, under its final name, or not at all. Whatever is not a whole
reply to the request that the file's name says counts as missing, is said in the log, and is written anew. A folder is
tried out before the first request; where it fails later, replies that were paid for are still used.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError, reason_of
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.ownership import taking_turns
from seal_lightning.files.saving import SavingError, save_text
from seal_lightning.text.foreign import sound

log = logging.getLogger(__name__)

DEFAULT = "~/.cache/seal-lightning/endpoint"
_KINDS = {"text": str, "finish": str, "counted": bool}  # of a reply as it lies on disk; all others are counts
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_LARGEST = 1 << 30  # bytes of a file that is read


def cache_folder(name: str) -> Path:
    """The folder that an option names; `~/.cache` is what XDG_CACHE_HOME says, where that is set."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if home and name.startswith("~/.cache/"):
        return Path(home) / name.removeprefix("~/.cache/")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # nobody's home
        raise ConfigError(f"cache={name}: {error}; choose a folder you can write to, or null for none") from error


class Cache:
    """The replies below a folder; without one, nothing is ever there.

    Args:
        folder: Made when it is tried out; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.lost = 0  # replies that could not be written
        self._lock = threading.Lock()

    def foresee(self) -> None:
        """Raise a `ConfigError` where the folder can certainly not be written to; nothing is made."""
        if self.folder is None:
            return
        try:
            place = self.folder
            while not place.exists() and place.parent != place:
                place = place.parent
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"{place} cannot be written to")
        except OSError as error:
            raise self._refused(error) from error
        except ValueError as error:  # a NUL character
            raise ConfigError(
                f"cache: expected the name of a folder: {error}; choose a folder you can write to, or null for none"
            ) from error

    def check(self) -> None:
        """Make the folder and write a file to it, before anything is paid for.

        Raises:
            ConfigError: It cannot be done.
        """
        if self.folder is None:
            return
        probe = self.folder / f".{uuid4().hex}.probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"may this be written?")  # a full disk has room for a name, but not for its content
            probe.unlink()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cache={self.folder}: {reason_of(error)}; choose a folder you can write to, or null for none"
        )

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if it is there and whole."""
        content = self.read(key)
        if content is None:
            return None
        if not _is_reply(content):
            self._damaged(key, "no reply")
            return None
        text, replaced = sound(content["text"])
        return Reply(**{**content, "text": text}, replaced=replaced)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, at once; one that cannot be written is counted in `lost`, and said once."""
        kept = {name: value for name, value in asdict(reply).items() if name != "replaced"}  # it shows in the text
        try:
            self.write(key, kept)
        except SavingError as error:
            with self._lock:
                self.lost += 1
                first = self.lost == 1
            if first:
                log.warning(
                    "cache=%s: %s; replies that cannot be written are used where they were asked for, and asked for "
                    "again if that is repeated",
                    self.folder,
                    reason_of(error.__cause__ or error),
                )

    def read(self, key: str) -> dict[str, Any] | None:
        """What was written under a key."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                return self._damaged(key, "no file of a reply")
            record = parse_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return self._damaged(key, reason_of(error))
        if not isinstance(record, dict) or record.get("key") != key or not isinstance(record.get("content"), dict):
            return self._damaged(key, "it belongs to another request" if isinstance(record, dict) else "no object")
        return record["content"]

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Write a JSON object under a key.

        Raises:
            SavingError: It cannot be written.
        """
        if self.folder is None:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SavingError(f"{path.parent}: {reason_of(error)}", error) from error
        save_text(path, json.dumps({"key": key, "content": dict(content)}))

    def drop(self, key: str) -> None:
        """Forget what was written under a key."""
        if self.folder is None:
            return
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cache=%s: %s cannot be removed: %s", self.folder, self._path(key).name, reason_of(error))

    def _damaged(self, key: str, why: str) -> None:
        log.warning("%s: %s, so it is asked for again", self._path(key), why)

    @contextmanager
    def alone(self, key: str, *, pause: Callable[[float], None]) -> Iterator[None]:
        """Within the block, no other process is in one with the same key; they wait, `pause` by `pause`.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        if self.folder is None:
            yield
            return
        path = self._path(key).with_suffix(".lock")
        with ExitStack() as stack:
            try:
                stack.enter_context(taking_turns(path, pause=pause))
            except OSError as error:
                raise self._refused(error) from error
            yield

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def _is_reply(content: Mapping[str, Any]) -> bool:
    """Whether all fields of a reply are there, each of its kind."""
    if {*content} != {*_KINDS, *_COUNTS}:
        return False
    counts = [content[name] for name in _COUNTS]
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    return whole and all(isinstance(content[name], kind) for name, kind in _KINDS.items())
