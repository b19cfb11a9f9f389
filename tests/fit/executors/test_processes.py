"""Units in several processes of one thread: the same run to the last bit, whatever happens to the others."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from fault_injection import fit, outcome
from torch import nn

from seal_lightning.endpoints.endpoint import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.fit.executors import LocalExecutor, ProcessExecutor
from seal_lightning.fit.executors import processes as module
from seal_lightning.grading import Judge
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.models.shared import SharedWeights
from seal_lightning.processes.parcels import CannotBeSent, holds, parcel
from seal_lightning.records.journal import read_rollouts

TWO = {
    "executor": {"class_path": "seal_lightning.fit.executors.ProcessExecutor", "init_args": {"processes": 2}},
    "validate_first": False,
    "limit_val_batches": 0,
}


def e_step(run, round):
    """What a round's E-step came to: every rollout but its times, and the kept set."""
    rollouts = [replace(rollout, seconds={}) for rollout in read_rollouts(run / "journal", f"train-{round:03d}")]
    groups = group_rollouts(rollouts)
    return rollouts, [(edit.context_id, edit.edit_index) for group in groups for edit in best_of(group)]


def planned(run, *, events=(), waits):
    """Options of a sampler of the user's own, which does what a plan says."""
    plan = {"log": str(run.with_suffix(".plan")), "events": list(events), "waits": waits}
    sampler = "--model.sampler.init_args"
    return [
        *("--model.sampler", "planned_sampler.PlannedSampler"),
        *(f"{sampler}.plan", str(plan).replace("'", '"'), f"{sampler}.max_new_tokens", "12"),
    ]


def workers_of(run):
    return [int(line) for line in run.with_suffix(".plan").read_text().split()]


def test_two_processes_find_and_learn_the_same_though_units_fail_and_a_worker_is_killed(tmp_path, two_rounds):
    """The first process waits with its first unit of each round until the worker has had its part."""
    run = tmp_path / "run"
    plan = planned(run, events=["fail", "work", "die"], waits={"1": 3, "4": 4})
    launch = fit(run, "single", *plan, trainer=TWO)
    assert launch.wait() == [0], launch.log.read_text()
    said = launch.log.read_text()
    assert "units of work are done in 2 processes of one thread" in said
    assert "a worker failed on unit 1 (contexts " in said and "RuntimeError: a driver is broken" in said
    assert "a worker died with unit 3 (contexts " in said and "it ended with SIGKILL; it is done again here" in said
    assert len(set(workers_of(run))) == 2  # one a round
    assert [e_step(run, round) for round in (0, 1)] == [e_step(two_rounds, round) for round in (0, 1)]
    assert outcome(run) == outcome(two_rounds)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_ended_takes_its_workers_along_and_goes_on_with_what_was_finished(
    tmp_path, two_rounds, number, code
):
    run = tmp_path / "run"
    stop = {"class_path": "fault_injection.KillAt", "init_args": {"event": "unit", "count": 1, "number": int(number)}}
    plan = planned(run, waits={"1": 1})
    launch = fit(run, "single", *plan, trainer={**TWO, "max_epochs": 1, "callbacks": [stop]})
    assert launch.wait() == [code], launch.log.read_text()
    worker = workers_of(run)[0]
    if psutil.pid_exists(worker):
        psutil.Process(worker).wait(60)
    assert not psutil.pid_exists(worker)
    finished = len(read_rollouts(run / "journal", "train-000")) // 4
    assert finished == 1 if number == signal.SIGKILL else finished >= 2  # what the worker had in hand is kept
    again = {**TWO, "executor": {"class_path": "LocalExecutor"}, "max_epochs": 1}
    assert fit(run, "single", *plan, "--ckpt_path", "last", trainer=again).wait() == [0]
    assert e_step(run, 0) == e_step(two_rounds, 0)


def test_what_cannot_be_sent_is_told_in_a_line_and_units_are_done_in_one_process(tmp_path, two_rounds):
    run = tmp_path / "run"
    launch = fit(run, "single", "--model.grader", "fault_injection.Unsendable", trainer={**TWO, "max_epochs": 1})
    assert launch.wait() == [0], launch.log.read_text()
    said = launch.log.read_text()
    assert said.count("units of work are done in this process alone: something cannot be sent to another process") == 1
    assert e_step(run, 0) == e_step(two_rounds, 0)


# -- the choice --------------------------------------------------------------------------------------------------------


def begun(executor, *, cores=2, parameters=1_000_000, device="cpu", ranks=1, units=8, e_step=None, monkeypatch):
    """Threads after the beginning of a run, and the processes of a phase of it."""
    monkeypatch.setattr(module, "cores", lambda: cores)
    chosen = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: parameters)])
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), world_size=ranks)
    run = SimpleNamespace(policy=SimpleNamespace(view=SimpleNamespace(model=model)), e_step=e_step)
    executor.begin(trainer, run, units=units)
    return executor._wanted(trainer, run, e_step, units=units), chosen


@pytest.mark.parametrize(
    ("changes", "processes", "threads"),
    [
        ({}, 2, [1]),
        ({"cores": 16}, 8, [1]),
        ({"cores": 1}, 1, [1]),  # a tiny model is in one thread in any case
        ({"units": 1}, 1, [1]),
        ({"units": 1, "parameters": 30_000_000}, 1, []),  # nothing to share out, and threads help a little
        ({"parameters": 30_000_000}, 2, [1]),
        ({"parameters": 60_000_000}, 1, []),
        ({"device": "cuda"}, 1, []),
        ({"ranks": 2}, 1, []),
        (
            {"e_step": Judge(endpoint=Endpoint(base_url="http://localhost:1/v1", model="judge"))},
            1,
            [1],
        ),  # whose limits are a process's
    ],
)
def test_by_default_small_models_on_a_cpu_get_a_process_a_core(changes, processes, threads, monkeypatch):
    assert begun(ProcessExecutor(), **changes, monkeypatch=monkeypatch) == (processes, threads)


def test_a_number_of_processes_is_taken_as_it_is(monkeypatch):
    assert begun(ProcessExecutor(processes=3), parameters=60_000_000, monkeypatch=monkeypatch) == (3, [1])
    assert begun(ProcessExecutor(processes=1), parameters=30_000_000, monkeypatch=monkeypatch) == (1, [])
    with pytest.raises(ConfigError, match="processes must be null or 1 on 2 ranks and a cpu device, got 3"):
        begun(ProcessExecutor(processes=3), ranks=2, monkeypatch=monkeypatch)
    with pytest.raises(ConfigError, match=r"trainer\.executor\.processes must be at least 1, or null, got 0"):
        ProcessExecutor(processes=0)


def test_the_local_executor_leaves_threads_alone(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    LocalExecutor().begin(SimpleNamespace(), SimpleNamespace(), units=8)  # type: ignore[arg-type]
    assert chosen == []


# -- on the way to a worker --------------------------------------------------------------------------------------------


def test_what_is_sent_is_looked_at():
    assert holds({"grader": [Judge(endpoint=Endpoint(base_url="http://localhost:1/v1", model="judge"))]}, Endpoint)
    assert not holds({"grader": [Judge()]}, Endpoint)
    assert not holds(lambda: None, Endpoint)
    with pytest.raises(CannotBeSent, match="something cannot be sent to another process"):
        parcel([lambda: None])


def test_a_class_of_the_running_program_is_named():
    own = type("MyGrader", (), {"__module__": "__main__"})
    with pytest.raises(CannotBeSent, match=r"^MyGrader is defined in the program that runs: move it into a module$"):
        parcel({"grader": own})


def test_weights_that_are_written_again_are_seen_at_once():
    trained, other = nn.Linear(3, 2), nn.Linear(3, 2)
    weights = SharedWeights(trained)
    weights.write(trained)
    weights.use_in(other)
    assert torch.equal(other.weight, trained.weight) and torch.equal(other.bias, trained.bias)
    with torch.no_grad():
        trained.weight += 1
    assert not torch.equal(other.weight, trained.weight)
    weights.write(trained)
    assert torch.equal(other.weight, trained.weight)
    with pytest.raises(ValueError, match="the base model is another one when it is loaded again"):
        weights.use_in(nn.Linear(3, 3))
    weights.close()
