"""How many cores a run may use, and in how many one-thread processes its work is done fastest.

A model of a few million parameters gains nothing from a second thread: its products are too small to be divided, and
the threads wait for each other. As many processes of one thread as there are cores do 1.5 to 2 times as much on two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SMALL = 50_000_000  # parameters below which a core does more with a process of its own than as a further thread
TINY = 5_000_000  # parameters below which several threads only get into each other's way
WORKER_BYTES = 1 << 30  # of memory that a worker may take: libraries, and a unit of a small model
_CONTAINER = Path("/sys/fs/cgroup")


def cores() -> int:
    """The cores that this process may keep busy: as many as it has threads, where the machine leaves it as many.

    Whoever sets OMP_NUM_THREADS, or calls `torch.set_num_threads`, has said how much of the machine a run may take:
    one thread where several runs go on side by side.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(torch.get_num_threads(), there, _share_of_container(_CONTAINER))))


def processes_for(*, parameters: int, cores: int, jobs: int) -> int:
    """In how many processes of one thread the jobs are done fastest on a CPU; 1 is this process alone, as it is.

    Args:
        parameters: Parameters of the model.
        cores: The cores that the run may keep busy.
        jobs: Pieces that the work can be shared out in.
    """
    return max(1, min(cores, jobs)) if parameters < SMALL else 1


@contextmanager
def threads_kept() -> Iterator[None]:
    """Whatever sets the number of torch's threads in this block, it is put back at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _share_of_container(root: Path) -> float:
    """The cores' worth of time that the limit of this process's control group leaves it."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # versions 2 and 1
        try:
            quota, period = " ".join((root / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdecimal() and period.isdecimal() and int(period):
            return int(quota) / int(period)
    return math.inf
