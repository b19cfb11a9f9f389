"""benchmarks/inner_loop.py: both sides do the same jobs, and processes get shares of about the same work."""

import json
import subprocess
import sys
from pathlib import Path

import inner_loop as benchmark
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_jobs_are_shared_out_by_their_tokens():
    costs = [9, 1, 8, 2, 7, 3]
    parts = benchmark.shares(range(6), costs, 2)
    assert sorted(job for part in parts for job in part) == [0, 1, 2, 3, 4, 5]
    assert [sum(costs[job] for job in part) for part in parts] == [15, 15]
    assert benchmark.shares([0], [5], 2) == [[0], []]


@pytest.mark.slow
def test_the_benchmark_says_which_form_of_peft_was_best(tmp_path):
    arguments = ["--repeats", "1", "--jobs", "2", "--threads", "1", "--epochs", "1", "--trial_jobs", "1"]
    script, written = str(ROOT / "benchmarks/inner_loop.py"), str(tmp_path / "found.json")
    command = [sys.executable, script, *arguments, "--json", written]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    best = found["best"]
    assert best["peft"] in found["forms"] and best["bank"] in found["forms"]
    assert {form["side"] for form in found["forms"].values()} == {"peft", "bank"}
    assert len({(form["steps"], form["tokens"]) for form in found["forms"].values()}) == 1  # the same work
    assert found["forms"][best["peft"]]["ratio"] == 1.0
    assert set(found["matmul"]) == {"mm", "onednn"} and found["errors"]["mm"] < 1e-5
    assert best["peft"] in done.stdout
