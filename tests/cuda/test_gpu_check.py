"""benchmarks/gpu_check.py on the CPU: every section runs, and what needs no GPU comes out as expected."""

import json
import sys
import warnings

import gpu_check
import pytest


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_through_on_a_cpu(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--models", "lab", "--slots", "2", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process of its own, where they are no errors
        gpu_check.main()
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["failed"] == [] and "not as expected: nothing" in capsys.readouterr().out
    lines = found["lines"]
    assert not [name for name in lines if name.startswith(("FAILED", "left out"))]
    for name in ("largest difference, bank and sequential peft", "equal answers in one batch and one by one",
                 "dtypes of LoRA's products under bf16-mixed", "exit code of its resume",
                 "slots chosen before and after a training"):  # fmt: skip
        assert lines[name]["verdict"] == "as expected"
    assert (tmp_path / "profile.txt").stat().st_size > 1000
