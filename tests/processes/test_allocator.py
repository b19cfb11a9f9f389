"""Freed memory stays with the process that asked for it."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the setting cannot be taken back.
CODE = """
import sys
from pathlib import Path

from seal_lightning.processes.allocator import keep_freed_memory


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = bytearray(b"x") * (64 << 20)
del block
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("wanted", "at_least", "below"), [("keep", 60 << 10, 1 << 30), ("give back", -1024, 8 << 10)])
def test_a_freed_block_stays_or_goes(wanted, at_least, below):
    found = subprocess.run([sys.executable, "-c", CODE, wanted], capture_output=True, text=True, check=True, timeout=60)
    assert at_least <= int(found.stdout) < below  # kilobytes
