"""In how many processes a run's work is done: by the model, the cores, the threads that were asked for, the work."""

import math

import pytest
import torch

from seal_lightning.processes import cores as module
from seal_lightning.processes.cores import cores, processes_for, threads_kept

LAB, SMOLLM2 = 900_000, 135_000_000


@pytest.mark.parametrize(
    ("parameters", "available", "jobs", "processes"),
    [
        (LAB, 2, 8, 2),
        (LAB, 8, 3, 3),  # no more than there is to do
        (LAB, 1, 8, 1),
        (LAB, 2, 1, 1),
        (LAB, 2, 0, 1),
        (49_999_999, 4, 8, 4),
        (50_000_000, 4, 8, 1),
        (SMOLLM2, 64, 100, 1),
    ],
)
def test_a_small_model_gets_a_process_a_core(parameters, available, jobs, processes):
    assert processes_for(parameters=parameters, cores=available, jobs=jobs) == processes


@pytest.mark.parametrize(
    ("allowed", "threads", "limit", "expected"),
    [
        ({0, 1}, 2, None, 2),
        (set(range(64)), 64, "200000 100000", 2),  # a container's limit
        (set(range(64)), 64, "150000 100000", 1),  # of which whole cores count
        (set(range(64)), 64, "50000 100000", 1),
        (set(range(64)), 64, "max 100000", 64),
        (set(range(64)), 1, None, 1),  # OMP_NUM_THREADS=1
        (set(range(16)), 8, None, 8),  # two threads a core
        ({3}, 2, None, 1),  # taskset
    ],
)
def test_cores_are_those_that_the_machine_the_container_and_the_user_leave(
    tmp_path, monkeypatch, allowed, threads, limit, expected
):
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(module, "_CONTAINER", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: allowed)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert cores() == expected


def test_an_older_container_has_its_limit_in_two_files(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert module._share_of_container(tmp_path) == 3
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert module._share_of_container(tmp_path) == math.inf


def test_one_thread_is_all_that_the_tests_take():
    assert cores() == 1


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    with threads_kept():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before
