"""A rank that stands still is named and given up on, and what was finished goes on elsewhere."""

import os
import re
import signal
import threading
import time

import fault_injection
import psutil
import pytest
import torch.distributed as dist
from fault_injection import fit

from seal_lightning.errors import ConfigError, UnitError
from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.processes.ranks import Ranks, UnitQueue
from seal_lightning.processes.watch import Watch

SECONDS = 5  # of patience; five signs or so must come in that time, on a busy machine too
ONE_ROUND = {"max_epochs": 1}
GRACE = 1.5  # seconds that a main thread gets to end by itself, which it cannot within a collective


def stopping_at(event, *, rank, number=signal.SIGSTOP, **trainer):
    stop = {
        "class_path": "fault_injection.KillAt",
        "init_args": {"event": event, "count": 1, "number": int(number), "rank": rank},
    }
    grace = {"class_path": "fault_injection.ShortGrace", "init_args": {"seconds": GRACE}}
    return {"callbacks": [stop, grace], "give_up_after": SECONDS, **ONE_ROUND, **trainer}


def stopped_run(run, event, *, still):
    """A run of two ranks of which one has stopped at an event; the other waits for it from now on."""
    launch = fit(run, "ddp", trainer=stopping_at(event, rank=still))
    rank = psutil.Process(launch.ranks[still].pid)
    deadline = time.monotonic() + 60
    while rank.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.02)
    return launch


def end_of(launch, *, still):
    """The exit code of the rank that is left; what stands still is ended as whoever started it would."""
    launch.ranks[1 - still].join(120)
    code = launch.ranks[1 - still].exitcode
    launch._end(0.0)
    return code


def test_ranks_that_were_stopped_are_named_and_the_runs_go_on_without_them(tmp_path):
    """Four runs, one after the other, so that they wait for their ranks at the same time; the last gets a signal."""
    stops = {"unit": 1, "validation": 1, "batch": 0}
    launches = {event: stopped_run(tmp_path / event, event, still=still) for event, still in stops.items()}
    signalled = stopped_run(tmp_path / "signalled", "unit", still=1)
    os.kill(signalled.ranks[0].pid, signal.SIGTERM)
    codes = [end_of(launches[event], still=still) for event, still in stops.items()]
    assert [*codes, end_of(signalled, still=1)] == [1, 1, 1, 1]
    assert "seal: rank 1 (process " in signalled.log.read_text()
    for event, still in stops.items():
        said, run = launches[event].log.read_text(), tmp_path / event
        process = rf"( \(process {launches[event].ranks[still].pid} on \S+\))?"  # where it gave a sign before
        expected = (
            rf"^seal: rank {still}{process} has given no sign of life for \d+ s, it is given up; "
            "finished units are in the journal, resume with --ckpt_path last and as many or other processes$"
        )
        assert len(re.findall(expected, said, re.MULTILINE)) == 1, said[-2000:]
        fault_injection.finished(
            fit(run, "single" if event != "batch" else "ddp", "--ckpt_path", "last", trainer=ONE_ROUND)
        )


def test_patience_is_checked():
    with pytest.raises(ConfigError, match=r"^trainer\.give_up_after must be 1 or more seconds, got 0: try 300"):
        SEALTrainer(give_up_after=0, accelerator="cpu", logger=False)


# -- the watch alone, on an in-process store ---------------------------------------------------------------------------


def watches(size, **options):
    store = dist.HashStore()
    return [Watch(store, run=1, rank=rank, size=size, **{"patience": 1.0, **options}) for rank in range(size)]


def test_ranks_that_give_signs_or_have_left_are_not_missed():
    first, second, third = watches(3, patience=3.0)  # a busy machine may be late with a sign
    for one in (first, second, third):
        one.start()
    third.stop()
    threading.Event().wait(4.5)
    assert (first.lost, second.lost) == ("", "")
    first.stop()
    second.stop()


def test_a_rank_that_never_gave_a_sign_is_missed_too():
    second = watches(2)[1]
    second.start()
    deadline = time.monotonic() + 60
    while not second.lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert second.lost.startswith("rank 0 has given no sign of life for ")
    second.stop()


def test_a_turn_that_comes_late_does_not_begin_the_count_anew():
    """On a busy machine, the thread that talks to the store is now and then a turn behind the one that counts."""
    second = watches(2)[1]
    turns = iter(range(40))

    def wait(seconds):
        turn = next(turns, None)
        second._turns += turn is not None and turn % 2
        return turn is None or bool(second.lost)

    second._done.wait = wait
    second._watch()
    assert second.lost.startswith("rank 0 has given no sign of life for 1 s")


def test_a_silent_rank_ends_a_process_whose_main_thread_cannot(monkeypatch):
    monkeypatch.setattr("seal_lightning.processes.watch.GRACE", 0.1)
    ended, told = threading.Event(), []
    codes = []
    first, second = watches(2, on_end=told.append, end=lambda code: (codes.append(code), ended.set()))
    first.start()
    second.start()
    threading.Event().wait(0.5)
    second._done.set()  # without a good-bye
    assert ended.wait(20)
    assert codes == [1] and told == [first.lost]
    assert first.lost.startswith(f"rank 1 (process {os.getpid()} on ")
    first.stop()


def test_a_rank_that_lives_and_gets_nowhere_is_given_up(monkeypatch):
    monkeypatch.setattr("seal_lightning.processes.ranks.SILENT_AFTER", 0.5)
    monkeypatch.setattr("seal_lightning.processes.ranks.TELL_EVERY", 0.05)
    store, queues = dist.HashStore(), []
    for rank in range(2):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, 2
        ranks.watch = Watch(store, run=1, rank=rank, size=2, patience=60.0, end=lambda code: None)
        queues.append(UnitQueue(store, [0], ranks=ranks, stop=lambda: 0, on_wait=lambda finished: None))
    first, second = queues
    assert second.take() == 0
    moving = threading.Event()

    def work():
        for _ in range(10):  # longer than anybody waits for one that gets nowhere
            moving.wait(0.2)
            second.stopping()

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(UnitError, match=r"^rank 1 has got nowhere with unit 0 for \d+ s, it is given up; finished"):
        first.take()
    assert not thread.is_alive()
    first.ranks.watch.stop()


def test_who_waits_for_units_leaves_when_a_rank_is_lost():
    store = dist.HashStore()
    ranks = Ranks()
    ranks.size = 2
    ranks.watch = Watch(store, run=1, rank=0, size=2, patience=1.0)
    ranks.watch.lost = "rank 1 has given no sign of life for 9 s"
    queue = UnitQueue(store, [0, 1], ranks=ranks, stop=lambda: 0, on_wait=lambda finished: None)
    with pytest.raises(UnitError, match=r"^rank 1 has given no sign of life for 9 s$"):
        queue.take()
