"""Several units as one piece of work: the same rollouts as one at a time, whatever fails or is killed meanwhile."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fault_injection import fit, outcome
from lightning.pytorch.plugins.precision import Precision

from seal_lightning.e_step.filling import units_that_fill
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import WritingStep
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, GradingError, NoMemoryError, Stopped, UnitError
from seal_lightning.fit.executors import LocalExecutor, RayExecutor, UnitWork
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.processes.ranks import Ranks, UnitQueue
from seal_lightning.progress.clock import Interrupted
from seal_lightning.records.journal import read_rollouts
from seal_lightning.sampling import LocalSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context

THREE = {"executor": {"class_path": "seal_lightning.fit.executors.LocalExecutor", "init_args": {"units_at_a_time": 3}}}


def e_step(run):
    return [replace(rollout, seconds={}) for rollout in read_rollouts(run / "journal", "train-000")]


@pytest.mark.parametrize("setup", ["single", "ddp"])
def test_a_fit_with_units_together_ends_as_one_with_each_alone(tmp_path, two_rounds, setup):
    run = tmp_path / "run"
    once = {"max_epochs": 1, "validate_first": False, "limit_val_batches": 0}
    launch = fit(run, setup, trainer={**THREE, **({} if setup == "single" else once)})
    assert set(launch.wait()) == {0}, launch.log.read_text()
    assert e_step(run) == e_step(two_rounds)
    if setup == "single":
        assert outcome(run) == outcome(two_rounds)


def test_a_kill_between_units_that_were_finished_together_loses_none_that_are_in_the_journal(tmp_path, two_rounds):
    run = tmp_path / "run"
    killer = {"class_path": "fault_injection.KillAt", "init_args": {"event": "unit", "count": 2}}
    once = {"max_epochs": 1, "validate_first": False, "limit_val_batches": 0}
    assert fit(run, "single", trainer={**THREE, **once, "callbacks": [killer]}).wait(together=False) == [-9]
    kept = e_step(run)
    assert len(kept) == 8  # two units of four rollouts
    launch = fit(run, "single", "--ckpt_path", "last", trainer={**THREE, **once})
    assert launch.wait() == [0], launch.log.read_text()
    assert e_step(run)[:8] == kept and e_step(run) == e_step(two_rounds)


# -- what fails --------------------------------------------------------------------------------------------------------


class Script:
    """In place of an E-step: notes which units it gets together, and fails as it is told."""

    def __init__(self, failing=lambda units: None):
        self.failing, self.seen = failing, []

    def run_together(self, policy, units, *, round, report):
        numbers = [int(unit[0].id) for unit in units]
        self.seen.append(numbers)
        if error := self.failing(numbers):
            raise error
        return [[f"rollout {number}"] for number in numbers]


class Frozen:
    """A policy that is always at work."""

    def open_replica(self):
        pass

    close_replica = open_replica

    @contextmanager
    def frozen(self):
        yield SimpleNamespace(device=torch.device("cpu"))


def at_work(step, *, count=6, together=4, stop=lambda: 0):
    """Run some units; those that were finished, in order."""
    trainer = SimpleNamespace(profiler=None, callbacks=[], precision_plugin=Precision())
    units = [(Context(str(number), "t", "p"),) for number in range(count)]
    work = UnitWork(trainer, SimpleNamespace(policy=Frozen()), phase="train", e_step=step, round=0, units=units)  # type: ignore[arg-type]
    queue = UnitQueue(dist.HashStore(), range(count), ranks=Ranks(), stop=stop, on_wait=lambda finished: None)
    for unit, rollouts in LocalExecutor(units_at_a_time=together).run(work, queue):
        assert rollouts == [f"rollout {unit}"]
        queue.finish(unit)
        yield unit


def test_units_are_shared_out_evenly_to_one_rank():
    step = Script()
    assert list(at_work(step, count=9, together=4)) == list(range(9))
    assert step.seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("error", [NoMemoryError("too much"), torch.OutOfMemoryError("CUDA out of memory")])
def test_units_that_do_not_fit_together_are_done_in_halves(error, caplog):
    step = Script(lambda units: error if len(units) > 1 else None)
    assert list(at_work(step, count=3)) == [0, 1, 2]
    assert step.seen == [[0, 1, 2], [0], [1, 2], [1], [2]]
    assert "3 units failed together" in caplog.text


def test_only_the_unit_at_fault_fails():
    step, done = Script(lambda units: GradingError("no reply") if 2 in units else None), []
    with pytest.raises(UnitError, match=r"^unit 2 \(contexts 2\) failed on rank 0: GradingError: no reply; "):
        done.extend(at_work(step, count=4))
    assert step.seen == [[0, 1, 2, 3], [0, 1], [2, 3], [2]]


def test_what_no_other_rank_would_do_better_ends_at_once():
    step = Script(lambda units: ConfigError("a wrong option"))
    with pytest.raises(ConfigError, match="a wrong option"):
        list(at_work(step))
    single = Script(lambda units: NoMemoryError("not even one"))
    with pytest.raises(NoMemoryError, match="not even one"):
        list(at_work(single))
    assert (step.seen, single.seen) == ([[0, 1, 2]], [[0, 1, 2], [0]])


def test_units_that_were_interrupted_are_left_for_the_next_start():
    asked = []

    def interrupt(units):
        asked.append(units)
        return Interrupted()

    done = []
    with pytest.raises(Stopped):
        done.extend(at_work(Script(interrupt), stop=lambda: 15 if asked else 0))
    assert not done and len(asked) == 1


def test_a_number_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"^trainer\.executor\.units_at_a_time must be a whole number of at least 1"):
        LocalExecutor(units_at_a_time=0)
    with pytest.raises(ConfigError, match=r"^trainer\.executor\.units_at_a_time must be a whole number of at least 1"):
        RayExecutor(units_at_a_time=0)


# -- how many ----------------------------------------------------------------------------------------------------------


def test_how_many_units_fill_a_gpu():
    loop = InnerLoop(max_adapters=32)
    step = EStep(Knowledge(), LocalSampler(), loop, Contains(), Reward(), Plan(edits=5, repeats=3))
    units = [tuple(Context(f"{unit}-{n}", "t", "p") for n in range(4)) for unit in range(9)]
    gpu, cpu = (SimpleNamespace(device=torch.device(name), model=None) for name in ("cuda", "cpu"))
    assert units_that_fill(step, cpu, units) == 1  # type: ignore[arg-type]
    assert units_that_fill(step, gpu, units) == 3 * 32 // (4 * 15)  # type: ignore[arg-type]
    few = replace(step, plan=Plan(edits=1, repeats=1, passage_only=True))
    assert units_that_fill(few, gpu, units) == 3 * 32 // (4 * 2)  # type: ignore[arg-type]
    many = replace(step, plan=Plan(edits=50))
    assert units_that_fill(many, gpu, units) == 1  # type: ignore[arg-type]
    race = step_for(Plan(edits=5, repeats=3, racing=Racing()), step)
    assert units_that_fill(race, gpu, units) == 3 * 32 // (4 * 5)  # type: ignore[arg-type]
    writing = WritingStep(**vars(step))
    assert units_that_fill(writing, gpu, units) == 256 // (4 * 5 * 1)  # type: ignore[arg-type]


class Own(EStep):
    """A user's own, which may look at all contexts that it gets."""

    def run(self, policy, contexts, *, round, report=lambda progress: None):
        return []


def test_a_users_own_e_step_gets_one_unit_on_a_gpu():
    step = Own(Knowledge(), LocalSampler(), InnerLoop(max_adapters=32), Contains(), Reward(), Plan(edits=1, repeats=1))
    gpu = SimpleNamespace(device=torch.device("cuda"), model=None)
    assert units_that_fill(step, gpu, [(Context("a", "t", "p"),), (Context("b", "t", "p"),)]) == 1  # type: ignore[arg-type]
