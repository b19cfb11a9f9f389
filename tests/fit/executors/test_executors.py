"""Whoever runs the units, the rollouts are the same: one process, DDP ranks, Ray workers, some of them broken."""

import re
import signal
from dataclasses import replace

import pytest
from fault_injection import fit, outcome

from seal_lightning.fit.executors import RayExecutor
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.journal import read_rollouts

RAY = {"executor": {"class_path": "seal_lightning.fit.executors.RayExecutor", "init_args": {"workers": 2}}}
ONE_ROUND = {"max_epochs": 1, "validate_first": False, "limit_val_batches": 0}


def e_step(run):
    """What the first round's E-step came to: every rollout but its times, and the kept set."""
    rollouts = [replace(rollout, seconds={}) for rollout in read_rollouts(run / "journal", "train-000")]
    groups = group_rollouts(rollouts)
    return rollouts, [(edit.context_id, edit.edit_index) for group in groups for edit in best_of(group)]


@pytest.fixture
def alone(two_rounds):
    """What one process finds in the first round."""
    rollouts, kept = e_step(two_rounds)
    assert len(rollouts) == 16 and len(kept) == 4
    return rollouts, kept


def test_two_ddp_ranks_find_the_same(tmp_path, alone):
    run = tmp_path / "run"
    launch = fit(run, "ddp", trainer=ONE_ROUND)
    assert launch.wait() == [0, 0]
    assert e_step(run) == alone
    written = {path.name for path in (run / "journal").glob("train-000*")}  # a busy rank leaves its units to the other
    assert written and written <= {"train-000.rank-0.jsonl", "train-000.rank-1.jsonl"}
    assert re.search(r"round 1 E-step: rank 0 \d units?.*, rank 1 \d units?", launch.log.read_text())
    assert "4 batches of each rank, effective batch 4" in launch.log.read_text()


def test_two_ray_workers_find_the_same_and_train_the_same_even_when_they_are_killed(tmp_path, two_rounds, alone):
    run = tmp_path / "run"
    killer = {"callbacks": [{"class_path": "fault_injection.KillRayWorkers"}]}
    unvalidated = {"validate_first": False, "limit_val_batches": 0}
    launch = fit(run, "single", trainer={**RAY, **killer, **unvalidated})
    assert launch.wait() == [0], launch.log.read_text()
    assert re.search("killing [12] Ray workers", launch.log.read_text())
    assert "a Ray worker died with unit " in launch.log.read_text()
    assert e_step(run) == alone
    assert outcome(run) == outcome(two_rounds)


def test_units_that_fail_on_one_rank_are_done_by_the_other(tmp_path, alone):
    run = tmp_path / "run"
    broken = ["--model.grader.class_path", "fault_injection.FailingGrader", "--model.grader.init_args.ranks", "[1]"]
    launch = fit(run, "ddp", *broken, trainer=ONE_ROUND)
    assert launch.wait() == [0, 0], launch.log.read_text()
    assert e_step(run) == alone
    assert (
        "failed on rank 1: RuntimeError: the judge's driver is broken; another rank tries it" in launch.log.read_text()
    )


@pytest.mark.parametrize(("setup", "ranks"), [("single", "[0]"), ("ddp", "[0, 1]")])
def test_a_unit_that_fails_everywhere_ends_the_run_without_a_reward(tmp_path, setup, ranks):
    run = tmp_path / "run"
    broken = ["--model.grader.class_path", "fault_injection.FailingGrader", "--model.grader.init_args.ranks", ranks]
    launch = fit(run, setup, *broken, trainer=ONE_ROUND)
    assert set(launch.wait(together=False, seconds=60)) == {1}
    said = launch.log.read_text()
    assert "unit 0 (contexts " in said and "RuntimeError: the judge's driver is broken" in said
    assert read_rollouts(run / "journal", "train-000") == []


def test_units_that_fail_together_on_a_ray_worker_are_done_alone_by_the_other_and_sigterm_keeps_what_is_in_hand(
    tmp_path, two_rounds, alone
):
    """The worker that grades the first unit is broken; it has that one with others, and the other worker never."""
    run = tmp_path / "run"
    first = read_rollouts(two_rounds / "journal", "train-000")[0].questions[0]
    broken = ["--model.grader.class_path", "fault_injection.BrokenProcess"]
    broken += ["--model.grader.init_args.marker", tmp_path / "marker", "--model.grader.init_args.about", first]
    several = {"executor": {**RAY["executor"], "init_args": {"workers": 2, "units_at_a_time": 3}}}
    arguments = {"event": "unit", "count": 3, "number": int(signal.SIGTERM)}
    stop = {"callbacks": [{"class_path": "fault_injection.KillAt", "init_args": arguments}]}
    launch = fit(run, "single", *broken, trainer={**ONE_ROUND, **several, **stop})
    assert launch.wait() == [143], launch.log.read_text()
    said = launch.log.read_text()
    assert re.search(r"[23] units failed together \(RuntimeError: the judge's driver is broken\): one by one", said)
    assert "the judge's driver is broken; another worker tries it" in said
    assert len(read_rollouts(run / "journal", "train-000")) in (12, 16)  # three units, and maybe one in hand
    assert fit(run, "single", *broken, "--ckpt_path", "last", trainer=ONE_ROUND).wait() == [0]
    assert e_step(run) == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "trainer.executor.workers must be at least 1, or null, got 0"),
        ({"cpus": 0}, "trainer.executor needs at least 1 cpu and 0 gpus a worker, got 0 and 0"),
        ({"gpus": -1}, "trainer.executor needs at least 1 cpu and 0 gpus a worker, got 1 and -1"),
    ],
)
def test_ray_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RayExecutor(**options)
