"""Freed memory stays with the process."""

import multiprocessing
from pathlib import Path

import pytest

from seal_lightning.allocator import keep_freed_memory

STATUS = Path("/proc/self/status")


def _resident() -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))


def _after_a_large_block(keep: bool, answer) -> None:
    if keep:
        keep_freed_memory()
    before = _resident()
    block = bytearray(b"x") * (64 << 20)
    del block
    answer.put(_resident() - before)


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("keep", "at_least", "below"), [(True, 60 << 10, 1 << 30), (False, -(1 << 30), 8 << 10)])
def test_a_freed_block_stays_or_goes(keep, at_least, below):
    context = multiprocessing.get_context("spawn")  # a fork would have this process's settings
    answer = context.Queue()
    child = context.Process(target=_after_a_large_block, args=(keep, answer))
    child.start()
    kilobytes = answer.get(timeout=60)
    child.join(timeout=60)
    assert at_least <= kilobytes < below
