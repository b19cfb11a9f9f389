"""Freed memory stays with the process that asked for it, and a GPU's in segments that grow."""

import json
import os
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


# -- on a GPU ----------------------------------------------------------------------------------------------------------

SEEN = """
import json, os, sys
from types import SimpleNamespace

from seal_lightning import cli

names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
plain = cli.import_module

def import_module(name):
    if name != "seal_lightning.commands.grade":
        return plain(name)
    assert "torch" not in sys.modules  # which reads it when CUDA starts, and once
    seen = {name: os.environ[name] for name in names & os.environ.keys()}
    return SimpleNamespace(main=lambda args: print(json.dumps(seen)))

cli.import_module = import_module
sys.exit(cli.main(["grade"]))
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"},
        ),
    ],
)
def test_segments_of_a_gpu_grow_unless_the_user_says_otherwise(given, seen):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH_")}
    found = subprocess.run(
        [sys.executable, "-c", SEEN], capture_output=True, text=True, check=True, timeout=60, env={**plain, **given}
    )
    assert json.loads(found.stdout) == seen


@pytest.mark.gpu
def test_torch_takes_the_setting():
    code = (
        "import os; from seal_lightning.processes.allocator import gpu_settings; os.environ.update(gpu_settings({}));"
        "import torch; torch.zeros(1, device='cuda');"
        "print(torch.cuda.memory._snapshot()['allocator_settings']['expandable_segments'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "True"
