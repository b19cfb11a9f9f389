"""Jobs shared out with workers: whatever happens to those, every job is done once and comes to the same."""

import os
import signal
import subprocess
import sys
from functools import partial

import psutil
import pytest
from worker_faults import Hopeless, Plan, Square, Talks, Unprepared

from seal_lightning.errors import ConfigError
from seal_lightning.processes.crew import Crew, Jobs
from seal_lightning.processes.parcels import parcel


@pytest.fixture
def crew_of(tmp_path):
    """Make a crew with one worker of a kind, and jobs that wait for it as a plan says."""
    crews = []

    def start(kind, *, events=(), waits, count=5):
        plan = Plan(str(tmp_path / "log"), events, {str(number): lines for number, lines in waits.items()})
        beside = Square(plan)
        beside.prepare(7)
        crews.append(Crew(parcel(partial(kind, plan)), workers=1))
        jobs = Jobs(range(count), beside.run, parcel((7,)), lambda number: number, name="job {}".format)
        return crews[-1], jobs, plan

    yield start
    for crew in crews:
        crew.close()


DONE = {0: 7, 1: 8, 2: 11, 3: 16, 4: 23}


def test_both_processes_do_some_jobs_once_each(crew_of):
    crew, jobs, plan = crew_of(Square, waits={1: 4})
    assert sorted(crew.share(jobs)) == sorted(DONE.items())
    assert len(plan.lines()) == 4 and os.getpid() not in plan.lines()


def test_jobs_of_a_worker_that_fails_or_dies_are_done_here_and_a_new_one_comes_next_time(crew_of, caplog):
    crew, jobs, plan = crew_of(Square, events=["fail", "work", "die"], waits={1: 3, 5: 4})
    assert sorted(crew.share(jobs)) == sorted(DONE.items())  # 0 and 4 here, and 1 and 3 once more
    assert sorted(crew.share(jobs)) == sorted(DONE.items())
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "a worker failed on job 1: RuntimeError: a driver is broken; it is done again here"
    assert said[1] == "a worker died with job 3: it ended with SIGKILL; it is done again here" and len(said) == 2
    assert len(set(plan.lines())) == 2


def test_a_worker_that_cannot_be_prepared_is_told_once_and_all_is_done_here(crew_of, caplog):
    crew, jobs, plan = crew_of(Unprepared, waits={1: 1})
    (thread,) = crew._workers.values()
    assert sorted(crew.share(jobs)) == sorted(DONE.items())
    thread.join()
    assert sorted(crew.share(jobs)) == sorted(DONE.items())
    assert len(plan.lines()) == 1 and [record.getMessage() for record in caplog.records] == [
        "a worker cannot be used: ValueError: there is no such model here; all work is done here"
    ]


def test_an_error_of_the_configuration_is_raised_here(crew_of):
    crew, jobs, _ = crew_of(Hopeless, waits={1: 1})
    with pytest.raises(ConfigError, match="expected a grader, got none"):
        list(crew.share(jobs))


def test_a_worker_logs_here(crew_of, caplog):
    crew, jobs, _ = crew_of(Talks, waits={1: 1}, count=2)
    assert sorted(crew.share(jobs)) == [(0, 7), (1, 8)]
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("seal_lightning.elsewhere", "squaring 1")
    ]


def test_what_workers_have_in_hand_is_finished_where_the_run_stops(crew_of):
    crew, jobs, plan = crew_of(Square, waits={1: 1}, count=100)
    done = dict(crew.share(Jobs(**{**vars(jobs), "stopping": lambda: len(plan.lines()) > 0})))
    assert set(done) == {0, 1}


KILLED = """
import os, signal
from functools import partial
from worker_faults import Plan, Square
from seal_lightning.processes.worker import Worker
import pickle
worker = Worker()
worker.make(pickle.dumps(partial(Square, Plan("log", [], {}))))
print(worker.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_with_the_process_that_has_started_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, cwd=tmp_path, env=environment)
    assert parent.returncode == -signal.SIGKILL and parent.stderr == b""
    worker = int(parent.stdout)
    if psutil.pid_exists(worker):  # it notices at once
        psutil.Process(worker).wait(60)
    assert not psutil.pid_exists(worker)


def test_signals_of_a_terminal_pass_a_worker_by(crew_of):
    crew, jobs, plan = crew_of(Square, waits={1: 1})
    rounds = crew.share(jobs)
    next(rounds)
    worker = plan.lines()[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker, number)
    assert len(list(rounds)) == 4 and psutil.pid_exists(worker)
