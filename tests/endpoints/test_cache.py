"""Replies on disk are whole or not there, whoever writes them and whatever else lies there."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seal_lightning.endpoints.cache import DEFAULT, Cache, cache_folder
from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError
from seal_lightning.types import Prompt, Usage

KEY = "ab" * 20
REPLY = Reply("yes “sure”", "stop", prompt_tokens=3, cached_tokens=1, completion_tokens=2)


def file_of(folder):
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    return path


def test_it_keeps_and_drops(tmp_path):
    cache = Cache(tmp_path / "a" / "b")
    assert cache.get(KEY) is None
    cache.drop(KEY)
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == REPLY
    assert file_of(tmp_path) == tmp_path / "a" / "b" / "ab" / f"{KEY}.json"
    cache.drop(KEY)
    assert cache.get(KEY) is None


def test_without_a_folder_nothing_is_kept():
    cache = Cache(None)
    cache.put(KEY, REPLY)
    cache.drop(KEY)
    assert cache.get(KEY) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b'{"key": "ab"}',
        json.dumps({"key": "cd" * 20, "content": {"text": "of another request"}}).encode(),
        json.dumps({"key": KEY, "content": "yes"}).encode(),
        json.dumps({"key": KEY, "content": {"text": "without the other fields"}}).encode(),
        json.dumps({"key": KEY, "content": {"text": 5, "finish": "", "prompt_tokens": 0, "cached_tokens": 0,
                                            "completion_tokens": 0, "counted": True}}).encode(),
    ],
)  # fmt: skip
def test_torn_and_foreign_files_count_as_missing(tmp_path, content):
    cache = Cache(tmp_path)
    cache.put(KEY, REPLY)
    file_of(tmp_path).write_bytes(content)
    assert cache.get(KEY) is None
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == REPLY


def test_a_torn_file_is_asked_for_again(scripted, make, said, tmp_path):
    server = scripted((200, said("so")))
    first = make(server).write([Prompt("u")], max_tokens=4)
    path = file_of(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:20])
    assert make(server).write([Prompt("u")], max_tokens=4) == first
    assert make(server).write([Prompt("u")], max_tokens=4)[0].usage == Usage(cached=1)


def test_writers_at_the_same_time_leave_whole_files_only(tmp_path):
    """Two processes with four threads each write the same keys; a third one reads all the while."""
    keys = [f"{number:040x}" for number in range(40)]
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from seal_lightning.endpoints.cache import Cache; from seal_lightning.endpoints.wire import Reply\n"
        "cache = Cache(__import__('pathlib').Path(sys.argv[1]))\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(lambda n: cache.put(f'{n % 40:040x}', Reply('long ' * 5000, str(n))), range(400)))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    cache = Cache(tmp_path)
    torn = 0
    with ThreadPoolExecutor(2) as pool:
        while any(writer.poll() is None for writer in writers):
            paths = [path for path in tmp_path.rglob("*.json") if not path.name.startswith(".")]
            torn += sum(reply is None for reply in pool.map(cache.get, [path.stem for path in paths]))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert torn == 0
    assert all(cache.get(key).text == "long " * 5000 for key in keys)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(keys)


def test_a_file_in_the_way_is_one_line(scripted, make, said, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cache=.*cache: .*; choose a folder you can write to, or null for none"):
        make(scripted((200, said()))).write([Prompt("u")], max_tokens=4)


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(DEFAULT) == tmp_path / ".cache" / "seal-lightning" / "endpoint"
    assert cache_folder("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "xdg"))
    assert cache_folder(DEFAULT) == tmp_path / "xdg" / "seal-lightning" / "endpoint"
    assert cache_folder("runs/cache") == Path("runs/cache")
