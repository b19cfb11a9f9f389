"""Replies on disk, one small JSON file each, named by a digest of the request.

Several processes, on several machines, may share a folder: a file appears whole, under its final name, or not at all.
That is why this is not a database, whose locks and journal do not hold on network file systems. A file that is not a
whole reply to the request that its name stands for counts as missing, is reported in the log, and is written anew. A
folder is tested before the first request; if it fails later, replies that were paid for are still used.
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
from uuid import uuid4

from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError, reason_of
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.ownership import taking_turns
from seal_lightning.files.saving import SavingError, save_text
from seal_lightning.text.escaping import sound
from seal_lightning.types import Json, JsonObject

log = logging.getLogger(__name__)

DEFAULT = "~/.cache/seal-lightning/endpoint"
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_KINDS = {"text": str, "finish": str, "counted": bool, **dict.fromkeys(_COUNTS, int)}  # of a reply on disk
_LARGEST = 1 << 30  # bytes of a file that is read


def cache_folder(name: str) -> Path:
    """The folder that an option names; XDG_CACHE_HOME, where set, takes the place of `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if home and name.startswith("~/.cache/"):
        return Path(home) / name.removeprefix("~/.cache/")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no home directory
        raise ConfigError(f"cache={name}: {error}; give another one, or null for none") from error


class Cache:
    """The replies below a folder; without one, nothing is ever there.

    Args:
        folder: Where replies are kept, made when it is tested; None keeps nothing.
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
            place = next(place for place in (self.folder, *self.folder.parents) if place.exists())
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"{place} cannot be written to")
        except OSError as error:
            raise self._refused(error) from error
        except ValueError as error:  # a NUL character
            raise ConfigError(
                f"cache: expected the name of a folder: {error}; give another one, or null for none"
            ) from error

    def check(self) -> None:
        """Make the folder and write a file to it, before anything is paid for; raises `ConfigError`."""
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
        if {*content} != {*_KINDS} or not all(map(_is_sound, content, content.values())):
            return self._damaged(key, "not a reply")
        text, replaced = sound(str(content["text"]))
        counts = {name: count for name in _COUNTS if isinstance(count := content[name], int)}
        return Reply(text, str(content["finish"]), counted=content["counted"] is True, replaced=replaced, **counts)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply at once; those that cannot be written are counted in `lost`, and reported once."""
        kept = {name: value for name, value in asdict(reply).items() if name != "replaced"}  # it shows in the text
        try:
            self.write(key, kept)
        except SavingError as error:
            with self._lock:
                self.lost += 1
                first = self.lost == 1
            if first:
                log.warning(
                    "cache=%s: %s; replies that cannot be written are still used here, but will be paid for again",
                    self.folder,
                    reason_of(error.__cause__ or error),
                )

    def read(self, key: str) -> JsonObject | None:
        """The object that was written under a key."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                return self._damaged(key, "not the file of a reply")
            record = parse_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return self._damaged(key, reason_of(error))
        content = record.get("content") if isinstance(record, dict) and record.get("key") == key else None
        return content if isinstance(content, dict) else self._damaged(key, "it belongs to another request")

    def write(self, key: str, content: Mapping[str, Json]) -> None:
        """Write a JSON object under a key. Raises `SavingError`."""
        if self.folder is not None:
            save_text(self._path(key), json.dumps({"key": key, "content": dict(content)}))

    def drop(self, key: str) -> None:
        """Forget what was written under a key."""
        if self.folder is None:
            return
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cache=%s: %s cannot be removed: %s", self.folder, self._path(key).name, reason_of(error))

    def _damaged(self, key: str, why: str) -> None:
        log.warning("%s: %s, so the request is sent again", self._path(key), why)

    @contextmanager
    def alone(self, key: str, *, pause: Callable[[float], None]) -> Iterator[None]:
        """Within the block, no other process is in one with the same key; they wait, `pause` by `pause`.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        if self.folder is None:
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(taking_turns(self._path(key).with_suffix(".lock"), pause=pause))
            except OSError as error:
                raise self._refused(error) from error
            yield

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def _is_sound(name: str, value: Json) -> bool:
    """Whether a field of a reply is of its kind; counts are not negative."""
    if isinstance(value, bool):
        return name == "counted"
    return isinstance(value, _KINDS[name]) and (not isinstance(value, int) or value >= 0)
