"""The processes of a sweep: how many at a time, how they end, and who else is in their folders."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from seal_lightning.commands.quickstart import Fit, start_fit
from seal_lightning.commands.sweep import grid, running
from seal_lightning.commands.sweep.grid import Planned
from seal_lightning.commands.sweep.running import SweepRun, Workers, last_line, time_left


def runs(folder, *codes):
    """Runs that sleep a moment and end with these exit codes."""
    return [
        SweepRun(Planned(str(n), "", {}, None, (f"raise SystemExit({code})",)), folder / str(n))
        for n, code in enumerate(codes)
    ]


@pytest.fixture
def programs(monkeypatch):
    """Runs are Python programs, and their environments are kept."""
    environments = []

    def start_fit(run, program, *resume, config, quiet, environment):
        assert resume == ("--ckpt_path", "last") and config is None and quiet
        environments.append(dict(environment))
        run.mkdir(parents=True, exist_ok=True)
        (run / "fit.log").write_text("at work\nseal: data.train is not set\nbye\n")
        return Fit(run, subprocess.Popen([sys.executable, "-Ic", program], process_group=0))

    monkeypatch.setattr(running, "start_fit", start_fit)
    monkeypatch.setattr(running, "PAUSE", 0.01)
    return environments


def test_so_many_at_a_time_each_in_its_place_and_a_failure_ends_no_other(tmp_path, programs):
    all_runs, most = runs(tmp_path, 0, 2, 0, 0, 1), []
    told = []
    workers = Workers(all_runs, 2, [{"PLACE": "a"}, {"PLACE": "b"}], lambda run: told.append((run.name, run.state)))
    workers.on_pause = lambda: most.append(sum(run.at_work for run in all_runs))
    workers.work()
    assert [run.state for run in all_runs] == ["finished", "failed", "finished", "finished", "failed"]
    assert [run.exit_code for run in all_runs] == [0, 2, 0, 0, 1]
    assert max(most) <= 2 and [one["PLACE"] for one in programs][:2] == ["a", "b"] and len(programs) == 5
    assert all_runs[1].error == "data.train is not set" and len(told) == 10
    assert all(run.seconds > 0 for run in all_runs)


def test_no_file_of_the_working_folder_is_taken_for_a_library(tmp_path, monkeypatch):
    """`python -m` looks there first; so do the ranks that a run starts likewise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    assert start_fit(tmp_path / "run", "--config", "none.yaml", config=None, quiet=True).process.wait() == 2
    asked = []

    def run(command, *, env, **options):
        asked.append(env["PYTHONSAFEPATH"])
        return subprocess.CompletedProcess(command, 0, stdout="{}", stderr="")

    monkeypatch.setattr(grid.subprocess, "run", run)
    assert grid._asked([]) == {} and asked == ["1"]


def test_a_run_that_was_killed_says_so(tmp_path):
    assert last_line(tmp_path / "none", -9) == "was killed by SIGKILL"
    (tmp_path / "log").write_text("Traceback\n  line\nImportError: no such thing\n")
    assert last_line(tmp_path / "log", 1) == "ImportError: no such thing"


def test_time_left():
    first, second, third = runs(Path(), 0, 0, 0)
    assert time_left([first, second, third], 2) is None
    first.state, first.seconds = "finished", 60.0
    assert time_left([first, second, third], 2) == 60.0
    assert time_left([first, second, third], 1) == 120.0
    second.state, second.began = "running", time.monotonic() - 40
    assert time_left([first, second, third], 1) == pytest.approx(80.0, abs=5)


HOLDING = "from pathlib import Path; import sys\nfrom seal_lightning.files.ownership import owning\n"
HOLDING += "with owning(Path(sys.argv[1]), option='x'):\n    print('held', flush=True); sys.stdin.read()"


def test_a_run_that_goes_on_from_a_killed_sweep_is_waited_for(tmp_path, programs, monkeypatch):
    monkeypatch.setattr(running, "LOOK", 0.0)
    one, other = runs(tmp_path, 0, 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, one.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told = []

    def on_change(run):
        told.append((run.name, run.state))
        if run.state == "elsewhere":
            assert f"process {holder.pid} on " in run.error
        if told[-1] == ("1", "finished"):
            holder.communicate()

    with holder:
        assert holder.stdout.readline() == "held\n"
        Workers([one, other], 2, [{}], on_change).work()
    assert told[0] == ("0", "elsewhere") and told[-2:] == [("0", "running"), ("0", "finished")]
    assert told.count(("0", "elsewhere")) == 1


STOPPED = """
import os, signal, subprocess, sys
from pathlib import Path
from seal_lightning.commands.quickstart import Fit
from seal_lightning.processes.stopping import ended_by_signals, work_begins
from seal_lightning.errors import Ended
from seal_lightning.commands.sweep import running
from seal_lightning.commands.sweep.grid import Planned

PATIENT = "import signal, sys, time\\nsignal.signal(15, lambda *_: (print('stopped', flush=True), sys.exit(143)))\\n"
PATIENT += "print('ready', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
running.STOPPED_WITHIN = 0.5

def start_fit(run, program, *resume, **options):
    return Fit(run, subprocess.Popen([sys.executable, "-Ic", program], process_group=0))

running.start_fit = start_fit
runs = [running.SweepRun(Planned(str(n), "", {}, None, (program,)), Path(sys.argv[1]) / str(n))
        for n, program in enumerate((PATIENT, DEAF))]
with ended_by_signals(lambda number: print("last words", flush=True), own_process=True):
    work_begins()
    try:
        running.Workers(runs, 2, [{}], lambda run: None).work()
    except Ended as stop:
        print("ended", flush=True)
        sys.exit(stop.code)
"""


def test_a_signal_lets_the_runs_end_and_kills_those_that_do_not(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED), tmp_path], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
        children = psutil.Process(process.pid).children()
        assert len(children) == 2 and all(os.getpgid(child.pid) == child.pid for child in children)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "stopped\nended\n"
        assert process.wait() == 143
    assert psutil.wait_procs(children, timeout=5)[1] == []
