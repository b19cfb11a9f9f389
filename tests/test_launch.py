"""Ranks for tests and trials start from a clean process, in the surroundings of whoever asks, on a port they keep."""

import json
import os
import re
import socket

import psutil
import pytest
from fault_injection import Launch, config, held_port


def test_a_rank_is_no_fork_of_the_process_that_asks_and_has_its_surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "beside.json").write_text(json.dumps(config(tmp_path / "run", max_epochs=1)))
    launch = Launch(["fit", "--config", "beside.json"], ranks=1, log=tmp_path / "log")
    rank = psutil.Process(launch.ranks[0].pid)
    assert psutil.Process(rank.ppid()).ppid() == os.getpid()  # the server's
    assert launch.wait() == [0], launch.log.read_text()
    assert (tmp_path / "run" / "fit.json").exists()


def test_a_held_port_is_taken_by_nobody_but_who_knows_it():
    with held_port() as held:
        port = held.getsockname()[1]
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("", port))
        with socket.socket() as rank:
            rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rank.bind(("", port))
            rank.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass


def test_a_rank_that_stands_still_says_where(tmp_path, monkeypatch):
    stop = {"class_path": "fault_injection.StandStill", "init_args": {"seconds": 60}}
    monkeypatch.setattr("fault_injection.LONGEST", 2.0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config(tmp_path / "run", max_epochs=1, callbacks=[stop])))
    launch = Launch(["fit", "--config", path], ranks=1, log=tmp_path / "log")
    assert launch.wait(seconds=4.0) == [None]
    assert re.search(r"^Timeout .*\n.*\(most recent call first\):\n  File ", launch.log.read_text(), re.MULTILINE)
