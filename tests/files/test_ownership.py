"""One owner a folder: a lock that ends with its process and is not inherited; a second comer changes nothing."""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seal_lightning.errors import ConfigError, UnitError
from seal_lightning.files import ownership
from seal_lightning.files.ownership import OWNER, FolderInUse, owning, read_owner
from seal_lightning.files.saving import SavingError

HOLD = """
import os, sys, time
from pathlib import Path
from seal_lightning.files.ownership import owning
with owning(Path(sys.argv[1]), option="--output x"):
    child = os.fork() if sys.argv[2] == "fork" else -1
    if child:
        print("holding", os.getpid(), child, flush=True)
    time.sleep(600)
"""


INFINITE = b'{"host": "h", "since": "s", "command": "c", "job": "", "process": Infinity}'


def hold(folder: Path, how: str = "alone") -> tuple[subprocess.Popen, int]:
    """A process that holds the lock, and the number of its forked child."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    word, _, child = process.stdout.readline().split()
    assert word == "holding"
    return process, int(child)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_comer_is_told_who_owns_the_folder_and_what_to_do(tmp_path):
    process, _ = hold(tmp_path / "run")
    before = contents(tmp_path)
    try:
        with pytest.raises(FolderInUse) as caught, owning(tmp_path / "run", option="--output run"):
            pytest.fail("two owners")
    finally:
        end(process)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.startswith(f"--output run: in use by python, process {process.pid} on {socket.gethostname()}, since 2")
    assert text.endswith(": wait until it has ended, or choose another folder. Nothing was changed")
    assert "\n" not in text
    assert contents(tmp_path) == before


def test_what_a_killed_owner_leaves_is_no_obstacle(tmp_path):
    process, _ = hold(tmp_path / "run")
    end(process)
    assert (tmp_path / "run" / OWNER).exists()
    with owning(tmp_path / "run", option="--output run"):
        owner = read_owner(tmp_path / "run" / OWNER)
        assert owner is not None and owner.process == os.getpid()
    assert contents(tmp_path) == {}


def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    process, child = hold(tmp_path / "run", "fork")
    end(process)
    try:
        os.kill(child, 0)  # it is alive
        with owning(tmp_path / "run", option="--output run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_takes_no_lock_from_its_parent(tmp_path):
    with owning(tmp_path, option="--output run"):
        child = os.fork()
        if not child:
            try:
                with owning(tmp_path, option="--output run"):
                    os._exit(1)
            except FolderInUse:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert other_can_own(tmp_path) is False
    assert other_can_own(tmp_path) is True


def other_can_own(folder: Path) -> bool:
    code = "import sys; from pathlib import Path; from seal_lightning.files.ownership import owning\n"
    code += "with owning(Path(sys.argv[1]), option='x'): pass"
    return not subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True).returncode


def test_nested_and_one_after_another_in_a_process(tmp_path):
    for _ in range(2):
        with owning(tmp_path, option="a"):
            with owning(tmp_path / ".." / tmp_path.name, option="a"):
                assert other_can_own(tmp_path) is False
            assert other_can_own(tmp_path) is False
    assert contents(tmp_path) == {}


def test_another_thread_of_the_process_is_another_owner(tmp_path):
    caught: list[Exception] = []

    def enter() -> None:
        try:
            with owning(tmp_path, option="a"):
                pass
        except FolderInUse as error:
            caught.append(error)

    with owning(tmp_path, option="a"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_refused_means_that_no_folder_was_made(tmp_path):
    with pytest.raises(ConfigError), owning(tmp_path / "a" / "b", option="x"):
        assert (tmp_path / "a" / "b").is_dir()
        raise ConfigError("no")
    assert list(tmp_path.iterdir()) == []


def test_refused_after_a_kill_leaves_the_folder_byte_for_byte(tmp_path):
    process, _ = hold(tmp_path)
    end(process)
    before = contents(tmp_path)
    assert list(before) == [OWNER]
    with pytest.raises(ConfigError), owning(tmp_path, option="x"):
        raise ConfigError("no")
    assert contents(tmp_path) == before
    with pytest.raises(UnitError), owning(tmp_path, option="x"):  # a failure of a run that had begun
        raise UnitError("no")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff" * 9000, b'{"host": 1}', b"[" * 1900, INFINITE])
def test_any_content_of_the_file_is_no_obstacle(tmp_path, content):
    (tmp_path / OWNER).write_bytes(content)
    assert read_owner(tmp_path / OWNER) is None
    with owning(tmp_path, option="x"):
        assert other_can_own(tmp_path) is False
    assert contents(tmp_path) == {}


def test_a_link_in_place_of_the_file_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    for link in (os.symlink, os.link):
        link(tmp_path / "precious", tmp_path / "run" / OWNER)
        with pytest.raises(ConfigError), owning(tmp_path / "run", option="x"):
            pytest.fail("written through")
        (tmp_path / "run" / OWNER).unlink()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_in_one_line(tmp_path, monkeypatch, caplog, number):
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING, "seal_lightning"), owning(tmp_path, option="--output run"):
        (tmp_path / "result").write_text("1")
    (line,) = caplog.messages
    assert line == (
        f"--output run: this file system has no locks ({os.strerror(number)}), so nothing keeps a second run out of "
        "this folder: make sure yourself that none is started"
    )
    assert contents(tmp_path) == {"result": b"1"}


def test_an_owner_on_another_machine_that_did_not_finish_is_said(tmp_path, caplog):
    row = {"host": "n12", "process": 7, "since": "2026-01-01 00:00:00+00:00", "command": "seal fit", "job": ""}
    (tmp_path / OWNER).write_text(json.dumps(row))
    with caplog.at_level(logging.WARNING, "seal_lightning"), owning(tmp_path, option="--output run"):
        pass
    assert caplog.messages == [
        "--output run: was left by seal fit, process 7 on n12, since 2026-01-01 00:00:00+00:00; if that is still "
        "running, locks do not work between these machines: stop it"
    ]


def test_a_requeued_job_waits_for_its_former_self(monkeypatch):
    before = ownership.Owner(host="elsewhere", process=1, since="", command="seal fit", job="77")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert ownership._patience(before) == 0.0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert ownership._patience(before) == 180.0
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert ownership._patience(before) == 0.0


def test_a_killed_process_that_is_being_cleared_away_is_waited_for():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie now
    ended = ownership.Owner(host=socket.gethostname(), process=child, since="", command="")
    assert ended.has_ended and ownership._patience(ended) == 30.0
    os.waitpid(child, 0)
    assert ended.has_ended
    me = ownership.Owner(host=socket.gethostname(), process=os.getpid(), since="", command="")
    assert not me.has_ended and ownership._patience(me) == 0.0


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"^x: Not a directory; choose a folder you can write to$"):
            owning(folder, option="x").__enter__()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SavingError, match=r"run: No space left on device: make room .* and start again"):
        owning(tmp_path / "run", option="x").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
