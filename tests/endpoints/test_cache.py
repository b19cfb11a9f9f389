"""Replies on disk are whole or not there, whoever writes them and whatever else lies there."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seal_lightning.endpoints.cache import DEFAULT, Cache, cache_folder
from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.files.saving import SavingError
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
            paths = list(tmp_path.glob("*/*.json"))
            torn += sum(reply is None for reply in pool.map(cache.get, [path.stem for path in paths]))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert torn == 0
    assert all(cache.get(key).text == "long " * 5000 for key in keys)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(keys)


WHOLE = {
    "text": "so",
    "finish": "stop",
    "prompt_tokens": 1,
    "cached_tokens": 0,
    "completion_tokens": 1,
    "counted": True,
}


@pytest.mark.parametrize(
    "wrong",
    [{"finish": ["length"]}, {"prompt_tokens": "1"}, {"completion_tokens": -1}, {"cached_tokens": True},
     {"counted": "yes"}, {"prompt_tokens": 1.5}, {"text": ["so"]}, {"further": 1}],
)  # fmt: skip
def test_fields_of_another_kind_count_as_missing_and_are_said(tmp_path, caplog, wrong):
    cache = Cache(tmp_path)
    cache.write(KEY, {**WHOLE, **wrong})
    assert cache.get(KEY) is None
    assert caplog.messages == [f"{tmp_path}/ab/{KEY}.json: not a reply, so the request is sent again"]
    cache.write(KEY, WHOLE)
    assert cache.get(KEY) == Reply("so", "stop", prompt_tokens=1, completion_tokens=1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "lists and objects nested more than 100 deep"),
        (b'{"key": ' + b"9" * 10_000 + b"}", "a number of more than 300 digits"),
        (b"\xff", "not text"),
        (json.dumps({"key": "cd" * 20, "content": {}}).encode(), "it belongs to another request"),
    ],
)
def test_a_damaged_file_is_said(tmp_path, caplog, content, why):
    cache = Cache(tmp_path)
    cache.put(KEY, REPLY)
    file_of(tmp_path).write_bytes(content)
    assert cache.get(KEY) is None
    (line,) = caplog.messages
    assert why in line and line.endswith(", so the request is sent again")


def test_a_pipe_in_the_place_of_a_reply_holds_nobody_up(tmp_path):
    cache = Cache(tmp_path)
    cache.put(KEY, REPLY)
    path = file_of(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert cache.get(KEY) is None
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == REPLY


def test_a_reply_kept_with_half_of_a_surrogate_pair_is_read(tmp_path):
    cache = Cache(tmp_path)
    cache.write(KEY, {**WHOLE, "text": "a \ud83d"})
    assert cache.get(KEY).text == "a \ufffd"


@pytest.mark.parametrize("below", ["", "/further/down"])
def test_a_file_in_the_way_is_one_line_at_the_start(scripted, make, said, tmp_path, below):
    (tmp_path / "cache").write_text("in the way")
    server = scripted((200, said()))
    with pytest.raises(ConfigError) as caught:
        make(server, cache=f"{tmp_path}/cache{below}")
    assert str(caught.value) == (
        f"cache={tmp_path}/cache{below}: {tmp_path}/cache is a file; choose a folder you can write to, or null for none"
    )
    assert server.bodies == []


def test_a_folder_that_cannot_be_written_to_is_one_line_at_the_start(scripted, make, said, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # whoever runs this may be root
    with pytest.raises(
        ConfigError, match=rf"^cache={tmp_path}/cache: {tmp_path} cannot be written to; choose a folder"
    ):
        make(scripted((200, said())))
    assert [*tmp_path.iterdir()] == []


def test_making_an_endpoint_makes_no_folder(scripted, make, said, tmp_path):
    make(scripted((200, said())), cache=f"{tmp_path}/a/b")
    assert [*tmp_path.iterdir()] == []


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("batch", [False, True])
def test_a_full_disk_is_one_line_before_the_first_request(scripted, make, said, tmp_path, monkeypatch, batch):
    server = scripted((200, said()))
    endpoint = make(server)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=rf"^cache={tmp_path}/cache: No space left on device; choose a folder"):
        endpoint.write([Prompt("u")], max_tokens=4, batch=batch)
    assert server.bodies == []


def test_replies_that_cannot_be_kept_are_used_and_counted(scripted, make, said, tmp_path, monkeypatch, caplog):
    """A disk that is full after the first request: what was paid for is there, and the lines say what is not kept."""
    server = scripted((200, said("so")), (200, said("so")), (400, {"error": {"message": "no"}}))
    endpoint = make(server, concurrency=1)

    def fills(path, text):
        try:
            full()
        except OSError as error:
            raise SavingError(f"{path}: {error.strerror}", error) from error

    monkeypatch.setattr("seal_lightning.endpoints.cache.save_text", fills)
    done = endpoint.write([Prompt("a"), Prompt("b")], max_tokens=4)
    assert [row.text for row in done] == ["so", "so"]
    assert caplog.messages == [
        f"cache={tmp_path}/cache: No space left on device; replies that cannot be written are still used here, "
        "but will be paid for again"
    ]
    with pytest.raises(EndpointError, match="status 400"):
        endpoint.write([Prompt("c"), Prompt("d")], max_tokens=4)
    server = scripted((200, said("so")), (503, {}))
    with pytest.raises(EndpointError, match=r"answered requests are in the cache, except 1 that could not be written$"):
        make(server, concurrency=1, retries=1).write([Prompt("e"), Prompt("f")], max_tokens=4)


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(DEFAULT) == tmp_path / ".cache" / "seal-lightning" / "endpoint"
    assert cache_folder("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "xdg"))
    assert cache_folder(DEFAULT) == tmp_path / "xdg" / "seal-lightning" / "endpoint"
    assert cache_folder("runs/cache") == Path("runs/cache")
