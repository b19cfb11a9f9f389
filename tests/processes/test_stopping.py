"""Signals at every moment of a command's life: one line, the right exit code, nothing left behind.

Real processes get real signals, at moments that they announce themselves.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from seal_lightning.errors import Ended
from seal_lightning.processes.stopping import StopSignals, ended_by_signals

ROOT = Path(__file__).resolve().parents[2]
SEAL = Path(sys.executable).with_name("seal")
RANDOM = ["--config", "configs/debug/random.yaml"]
RESUME = "; finished units are in the journal, resume with --ckpt_path last"
LONG = 120  # seconds, at most, that anything here may take


def started(*args, **options):
    """A `seal` process that handles signals already."""
    process = subprocess.Popen(
        [SEAL, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    until(lambda: handles(process, signal.SIGTERM))
    return process


def handles(process, number):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def ended(process):
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


def script(text):
    """Run Python source in a process of its own: exit code, stdout, stderr."""
    source = "import os, signal, sys, time\nfrom seal_lightning.processes import stopping\n" + textwrap.dedent(text)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, timeout=LONG)
    return done.returncode, done.stdout, done.stderr


# -- while libraries load ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.2])
def test_a_signal_while_libraries_load_is_one_line(tmp_path, number, code, said, seconds):
    process = started("fit", *RANDOM, "--trainer.default_root_dir", tmp_path / "run")
    time.sleep(seconds)
    process.send_signal(number)
    assert ended(process) == (code, "", f"seal: {said}{RESUME}\n")
    assert not (tmp_path / "run").exists()


def test_a_library_that_swallows_exceptions_does_not_make_a_command_deaf():
    code, out, err = script("""
        with stopping.ended_by_signals(lambda number: print("ended", number, file=sys.stderr), own_process=True):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(60)
            except BaseException:
                print("swallowed")
    """)
    assert (code, out, err) == (143, "", "ended 15\n")


# -- while a command works ---------------------------------------------------------------------------------------------


def test_a_signal_while_a_server_is_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        judge = {"class_path": "Judge", "init_args": {"endpoint": {"model": "m", "base_url": url, "cache": None}}}
        (tmp_path / "judge.yaml").write_text(json.dumps({"grader": judge}), encoding="utf-8")
        (tmp_path / "rows.jsonl").write_text('{"question": "Who?", "gold": "Ada", "answer": "Ada"}', encoding="utf-8")
        process = started("grade", tmp_path / "rows.jsonl", "--config", tmp_path / "judge.yaml")
        server.settimeout(LONG)
        connection, _ = server.accept()
        process.send_signal(signal.SIGHUP)
        assert ended(process) == (143, "", "seal: terminated\n")
        connection.close()


def test_a_signal_to_quickstart_stops_its_runs(tmp_path):
    process = started("quickstart", "--run_dir", tmp_path / "run")
    until(lambda: len(psutil.Process(process.pid).children()) == 2)
    runs = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err) == (143, "seal: terminated\n")
    assert psutil.wait_procs(runs, timeout=5)[1] == []


def test_signals_of_a_terminal_reach_quickstart_alone(tmp_path):
    process = started("quickstart", "--run_dir", tmp_path / "run", start_new_session=True)
    until(lambda: len(psutil.Process(process.pid).children()) == 2)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = ended(process)
    assert (code, err) == (130, "seal: interrupted\n")


@pytest.mark.slow
def test_a_signal_while_standard_input_is_waited_for(tmp_path):
    process = started("adapt", "-", "--output", tmp_path / "adapted", stdin=subprocess.PIPE)
    until(lambda: reads_pipe(process))
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    assert (code, out, err) == (143, "", "seal: terminated; finished work is kept, resume with --resume\n")
    assert not (tmp_path / "adapted").exists()


def reads_pipe(process):
    """Whether the main thread is in a read of standard input: system call 0 (x86) or 63 (ARM) of file 0."""
    try:
        call = Path(f"/proc/{process.pid}/syscall").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return call[:2] in (["0", "0x0"], ["63", "0x0"])


# -- again, ignored, unheard -------------------------------------------------------------------------------------------


def test_a_run_notes_a_signal_and_the_next_one_ends_it(monkeypatch, caplog):
    monkeypatch.setattr("seal_lightning.processes.stopping.AGAIN", 0.0)
    signals = StopSignals()
    with pytest.raises(Ended) as ended, signals.noted():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert caplog.messages == ["SIGHUP: stopping at the end of this unit or step; again, it stops at once"]


def test_the_same_signal_from_two_sides_is_one(caplog):
    signals = StopSignals()
    with signals.noted():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM and len(caplog.messages) == 1


def test_the_signal_of_a_scheduler_is_noted_as_it_is():
    signals = StopSignals()
    with signals.noted(preemption=signal.SIGHUP):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signals.received == signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_at_the_start_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does, and a script with what it puts in the background
    try:
        signals = StopSignals()
        with ended_by_signals(lambda number: None, own_process=False):
            os.kill(os.getpid(), number)
            with signals.noted():
                os.kill(os.getpid(), number)
        assert signals.received == 0
    finally:
        signal.signal(number, before)


def test_a_swallowed_signal_is_remembered_where_work_begins():
    with ended_by_signals(lambda number: None, own_process=False):
        with suppress(BaseException):  # as a library might
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Ended), StopSignals().noted():
            pass


def test_handlers_are_put_back_for_a_caller_who_goes_on():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    with ended_by_signals(lambda number: None, own_process=False), StopSignals().noted():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


WAITS_ELSEWHERE = """
    import hashlib, threading
    stopping.HANDLED_WITHIN = stopping.AGAIN = 0.3
    def kill():
        for _ in range({times}):
            time.sleep(0.8)
            os.kill(os.getpid(), signal.SIGTERM)
    with stopping.ended_by_signals(lambda number: print("ended", number, file=sys.stderr), own_process=True):
        stopping.work_begins()
        with stopping.stopped_on_leaving(lambda: print("stopped", file=sys.stderr)){noted}:
            threading.Thread(target=kill, daemon=True).start()
            hashlib.pbkdf2_hmac("sha512", b"a", b"b", 10**9)  # for minutes, with nothing but C in this thread
"""


def test_a_main_thread_that_waits_in_another_language_is_ended_too():
    assert script(WAITS_ELSEWHERE.format(times=1, noted="")) == (143, "", "stopped\nended 15\n")


def test_during_a_runs_work_that_takes_a_second_signal():
    noted = ", stopping.StopSignals().noted()"
    assert script(WAITS_ELSEWHERE.format(times=2, noted=noted)) == (143, "", "stopped\nended 15\n")


# -- several ranks -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_signal_while_ranks_meet_ends_both_with_one_line(tmp_path, which):
    ranks = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    process = started("fit", *RANDOM, *ranks, "--trainer.default_root_dir", tmp_path / "run")
    first = psutil.Process(process.pid)
    until(lambda: any("seal" in " ".join(child.cmdline()) for child in first.children()))
    (second,) = [child for child in first.children() if "seal" in " ".join(child.cmdline())]
    until(lambda: handles(second, signal.SIGTERM))
    (first if which == "first" else second).send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, err) == (143, f"seal: terminated{RESUME}\n")
    assert psutil.wait_procs([second], timeout=5)[1] == []
