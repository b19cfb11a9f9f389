"""benchmarks/gpu_check.py on the CPU: every section runs, and what needs no GPU comes out as expected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_through_on_a_cpu(tmp_path):
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--models", "lab", "--slots", "4", "--steps", "2"]
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["failed"] == [] and "not as expected: nothing" in done.stdout
    lines = found["lines"]
    assert not [name for name in lines if name.startswith(("FAILED", "left out"))]
    for name in ("largest difference, bank and sequential peft", "equal answers in one batch and one by one",
                 "dtypes of LoRA's products under bf16-mixed", "exit code of its resume",
                 "slots chosen before and after a training"):  # fmt: skip
        assert lines[name]["verdict"] == "as expected"
    assert (tmp_path / "profile.txt").stat().st_size > 1000
