"""Replies on disk, one small JSON file each, named by what was asked.

Several processes may share a folder: a file appears whole, under its final name, or not at all. Whatever is not a whole
reply to the request that the file's name says counts as missing and is written anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path

from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError
from seal_lightning.ownership import taking_turns

DEFAULT = "~/.cache/seal-lightning/endpoint"


def cache_folder(name: str) -> Path:
    """The folder that an option names; `~/.cache` is what XDG_CACHE_HOME says, where that is set."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if home and name.startswith("~/.cache/"):
        return Path(home) / name.removeprefix("~/.cache/")
    return Path(name).expanduser()


class Cache:
    """The replies below a folder; without one, nothing is ever there.

    Args:
        folder: Made when the first reply is written; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if it is there and whole."""
        content = self.read(key)
        if content is None or {*content} != {field.name for field in fields(Reply)}:
            return None
        reply = Reply(**content)
        return reply if isinstance(reply.text, str) else None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, at once."""
        self.write(key, asdict(reply))

    def read(self, key: str) -> dict | None:
        """What was written under a key."""
        if self.folder is None:
            return None
        try:
            record = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        whole = isinstance(record, dict) and record.get("key") == key and isinstance(record.get("content"), dict)
        return record["content"] if whole else None

    def write(self, key: str, content: dict) -> None:
        """Write a JSON object under a key.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        if self.folder is None:
            return
        path = self._path(key)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps({"key": key, "content": content}), encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise ConfigError(
                f"cache={self.folder}: {error.strerror or error}; choose a folder you can write to, or null for none"
            ) from error

    def drop(self, key: str) -> None:
        """Forget what was written under a key."""
        if self.folder is not None:
            self._path(key).unlink(missing_ok=True)

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
                raise ConfigError(
                    f"cache={self.folder}: {error.strerror or error}; choose a folder you can write to, or null for "
                    "none"
                ) from error
            yield

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"
