"""Whole runs on a GPU: SEAL's loop, its resume, and ZeRO; and the same commands on the CPU, so that they stay right."""

import subprocess
import sys
from pathlib import Path

import pytest
from fault_injection import Launch

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = {
    "single": ["auto"],
    "zero2": ["seal_lightning.fit.strategies.ZeROStrategy", "--trainer.strategy.stage", "2"],
    "zero3": ["seal_lightning.fit.strategies.ZeROStrategy", "--trainer.strategy.stage", "3"],
}
# on CPUs tests/fit/test_strategies.py has ZeRO, on two ranks
RUNS = [("cpu", "single"), *(pytest.param("gpu", name, marks=pytest.mark.gpu) for name in STRATEGIES)]


def fit(folder, place, strategy, *options):
    """The output of `seal fit`; on a GPU from a process of its own, since a forked one could not use CUDA."""
    arguments = [
        "fit", "--config", str(ROOT / "configs/debug/random.yaml"),
        "--model.source.name", "random/qwen2", "--model.source.dtype", "bfloat16", "--trainer.accelerator", place,
        "--trainer.default_root_dir", str(folder / "run"), "--trainer.strategy", *STRATEGIES[strategy], *options,
    ]  # fmt: skip
    log = folder / "log"
    log.write_text("")
    if place == "cpu":
        code = Launch(arguments, ranks=1, log=log).wait()[0]
    else:
        with log.open("w") as output:
            command = [sys.executable, "-m", "seal_lightning", *arguments]
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=600).returncode
    assert code == 0, log.read_text()[-4000:]
    return log.read_text()


def rounds(folder):
    journals = [folder / "run" / "journal" / f"train-{number:03d}.rank-0.jsonl" for number in (0, 1)]
    return [len(journal.read_text().splitlines()) for journal in journals]


@pytest.mark.parametrize(("place", "strategy"), RUNS)
def test_a_run_ends_well_and_goes_on_where_it_ended(tmp_path, place, strategy):
    fit(tmp_path, place, strategy, "--trainer.max_epochs", "1")
    fit(tmp_path, place, strategy, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    first, second = rounds(tmp_path)
    assert first == second > 0
    again = fit(tmp_path, place, strategy, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert "E-step" not in again  # nothing is left to do
    assert rounds(tmp_path) == [first, second]
