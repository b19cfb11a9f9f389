"""Units are handed out once, failures move on, everyone leaves together; ranks are threads on an in-process store."""

import threading

import pytest
import torch.distributed as dist

from seal_lightning.errors import Stopped, UnitError
from seal_lightning.processes.ranks import Ranks, UnitQueue


def queues(units, size, stops=None):
    """A queue for each of `size` ranks on one store."""
    store = dist.HashStore()
    made = []
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        stop = (stops or {}).get(rank, lambda: 0)
        made.append(UnitQueue(store, units, ranks=ranks, stop=stop, on_wait=lambda finished: None))
    return made


def in_threads(*calls):
    """What each call returned or raised."""
    found = [None] * len(calls)

    def run(place, call):
        try:
            found[place] = call()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads), "a rank hangs"
    return found


def drain(queue, fails=()):
    """Take units until there are none; those in `fails` fail here."""
    done = []
    while (unit := queue.take()) is not None:
        if unit in fails:
            queue.fail(unit, ValueError("broken driver"), contexts=[f"context {unit}"])
        else:
            done.append(unit)
            queue.finish(unit)
    return done


def test_one_rank_gets_all_units_in_order():
    (queue,) = queues([3, 1, 2], 1)
    assert drain(queue) == [3, 1, 2]
    assert queue.take() is None


def test_no_units_is_an_end_at_once():
    (queue,) = queues([], 1)
    assert queue.take() is None


def test_each_unit_goes_to_one_of_the_ranks():
    found = in_threads(*[lambda queue=queue: drain(queue) for queue in queues(list(range(40)), 3)])
    assert sorted(unit for done in found for unit in done) == list(range(40))


def test_a_unit_that_fails_on_one_rank_is_done_by_another():
    first, second = queues([0, 1, 2, 3], 2)
    found = in_threads(lambda: drain(first, fails=(0, 1, 2, 3)), lambda: drain(second))
    assert found == [[], [0, 1, 2, 3]] or sorted(found[1]) == [0, 1, 2, 3]


def test_a_unit_that_fails_on_two_ranks_ends_the_run_on_all_of_them():
    found = in_threads(*[lambda queue=queue: drain(queue, fails=(2,)) for queue in queues([0, 1, 2, 3], 3)])
    assert [type(error) for error in found] == [UnitError] * 3
    assert str(found[0]).startswith("unit 2 (contexts context 2) failed on rank ")
    assert "ValueError: broken driver; finished units are in the journal" in str(found[0])


def test_alone_a_failure_is_the_end():
    (queue,) = queues([0], 1)
    with pytest.raises(UnitError, match=r"unit 0 \(contexts context 0\) failed on rank 0: ValueError: broken driver"):
        drain(queue, fails=(0,))


def test_a_signal_to_one_rank_stops_all_after_the_units_in_hand():
    first, second = queues([0, 1, 2], 2, stops={1: lambda: 15})
    in_hand = threading.Event()

    def busy():
        unit = first.take()
        in_hand.set()
        first.store.wait(["stop"])  # the other has noticed its signal
        first.finish(unit)
        return first.take()

    found = in_threads(busy, lambda: in_hand.wait(10) and second.take())
    assert [type(error) for error in found] == [Stopped, Stopped]
    assert [error.code for error in found] == [143, 143]
    assert first.store.add("finished", 0) == 1


def test_a_signal_during_the_last_unit_does_not_undo_the_end():
    asked = []
    first, second = queues([0], 2, stops={1: lambda: 15 if asked else 0})

    def last():
        unit = first.take()
        asked.append(True)
        threading.Event().wait(0.2)  # the other rank sees the signal meanwhile, and waits
        first.finish(unit)
        return first.take()

    assert in_threads(last, lambda: threading.Event().wait(0.05) or second.take()) == [None, None]


def test_several_ranks_take_ever_fewer_units_at_a_time():
    first, second = queues(list(range(20)), 2)
    taken = [rank.take_some(4) for rank in (first, second) * 4]
    assert list(map(len, taken)) == [4, 4, 3, 3, 2, 1, 1, 1]
    assert [unit for units in taken for unit in units] == list(range(19))
    assert second.take_some(4) == [19]


def test_one_rank_alone_takes_even_shares():
    (queue,) = queues(list(range(9)), 1)
    assert [queue.take_some(4) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_unit_that_failed_is_handed_on_alone():
    first, second = queues([7, 8, 9], 2)
    assert [first.take_some(5), second.take_some(5), first.take_some(5)] == [[7], [8], [9]]
    for unit in (7, 9):
        first.fail(unit, ValueError("broken driver"), contexts=["c"])
    assert [second.take_some(5), second.take_some(5)] == [[7], [9]]


def test_units_in_hand_are_named_together(caplog, monkeypatch):
    monkeypatch.setattr("seal_lightning.processes.ranks.STUCK_AFTER", 0.01)
    first, second = queues([7, 8, 9, 10, 11], 2)

    def slow():
        units = first.take_some(5)
        assert units == [7, 8]
        threading.Event().wait(0.8)
        for unit in units:
            first.finish(unit)

    in_threads(slow, lambda: threading.Event().wait(0.05) or drain(second))
    assert "rank 0 has been at units 7, 8 for more than " in caplog.text


def test_a_stuck_rank_is_named(caplog, monkeypatch):
    monkeypatch.setattr("seal_lightning.processes.ranks.STUCK_AFTER", 0.01)
    first, second = queues([7], 2)

    def slow():
        unit = first.take()
        threading.Event().wait(0.8)
        first.finish(unit)

    in_threads(slow, lambda: threading.Event().wait(0.05) or second.take())
    assert "rank 0 has been at unit 7 for more than " in caplog.text


def test_abort_takes_everybody_along():
    first, second = queues([0, 1], 2)
    found = in_threads(lambda: first.abort("disk full"), second.wait)
    assert found[0] is None and isinstance(found[1], UnitError) and str(found[1]) == "disk full"
