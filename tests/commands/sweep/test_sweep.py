"""`seal sweep` from its options to its table, on the debug configuration; its fits run in this process."""

import json
import os
import shlex
from contextlib import redirect_stderr, redirect_stdout

import pytest

from seal_lightning.cli import main
from seal_lightning.commands.sweep import grid, running
from seal_lightning.commands.sweep.settings import find

BASE = ["--config", "configs/debug/random.yaml", "--trainer.max_epochs", "1", "--trainer.logger", "false"]
BASE += ["--model.e_step.repeats", "1", "--model.evaluation.edits", "1", "--data.limit_train", "1"]
OVER = ["--over", "filter=ReSTEMFilter,RandomFilter"]


class Done:
    """A process that has ended."""

    def __init__(self, code):
        self.code, self.pid = code, os.getpid()

    def poll(self):
        return self.code


@pytest.fixture
def started(monkeypatch):
    """The command lines of the fits that were started, which run here and at once."""
    commands = []

    def start_fit(run, *options, config, quiet, environment):
        assert config is None and quiet
        commands.append((run.name, options))
        run.mkdir(parents=True, exist_ok=True)
        with (run / "fit.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            code = main(["fit", *options, "--trainer.default_root_dir", str(run)])
        return running.Fit(run, Done(code))

    monkeypatch.setattr(running, "start_fit", start_fit)
    monkeypatch.setattr(running, "PAUSE", 0.0)
    monkeypatch.setattr(grid, "_asked", find)
    return commands


def sweep(*args):
    return main(["sweep", *BASE, *map(str, args)])


def test_a_sweep_goes_on_grows_and_names_what_failed(started, tmp_path, capfd):
    folder = tmp_path / "sweep"
    assert sweep(*OVER, "--seeds", 2, "--output", folder) == 0
    out, err = capfd.readouterr()
    names = [f"filter={name}_seed={seed}" for name in ("ReSTEMFilter", "RandomFilter") for seed in (0, 1)]
    assert [name for name, _ in started] == names
    assert started[3][1][-5:] == ("--data.limit_train", "1", "--model.seed=1", "--ckpt_path", "last")
    assert "| filter=RandomFilter | 2 " in out and "Intervals are 95 %, over 2 seeds (Student's t)." in out
    assert "paired over 2 seeds and the same contexts" in out
    assert out.endswith(
        f"saved: {folder}/sweep.md and .json, and the figure in sweep.svg\nnext: seal report {folder}\n"
    )
    lines = err.splitlines()
    assert lines[0] == f"4 runs in {folder}: checking their settings"
    assert lines[1].startswith(f"{names[0]}: own edits 0.000 after round 1, 0.000 before training, ")
    assert (
        lines[1].partition("; ")[2].startswith("1 of 4, about ") and lines[4].endswith("; 4 of 4") and len(lines) == 5
    )
    table = (folder / "sweep.md").read_text()
    assert out.split("saved:")[0].strip() in table and "| filter=RandomFilter_seed=1 | finished | 0.000 " in table
    assert (folder / "sweep.svg").read_text().startswith("<svg")
    state = json.loads((folder / "sweep.json").read_text())
    assert [(row["name"], row["state"], row["exit_code"]) for row in state["runs"]] == [
        (n, "finished", 0) for n in names
    ]
    assert state["runs"][3]["values"] == {"filter": "RandomFilter"} and state["runs"][3]["seed"] == 1
    assert state["settings"][1]["against_first"]["paired"] is True and state["settings"][0]["edits"][1]["count"] == 2

    # the same again runs nothing; one that did not come to its end goes on; more values and seeds add runs
    started.clear()
    (folder / names[1] / "fit.json").unlink()
    before = (folder / names[0] / "fit.json").stat().st_mtime_ns
    assert sweep(*OVER, "--seeds", 2, "--output", folder) == 0
    assert [name for name, _ in started] == [names[1]] and (folder / names[1] / "fit.json").is_file()
    assert (folder / names[0] / "fit.json").stat().st_mtime_ns == before
    assert "3 of 4 runs are already finished and kept" in capfd.readouterr().err
    started.clear()
    assert sweep("--over", "filter=ReSTEMFilter", "--seeds", 3, "--output", folder) == 0
    assert [name for name, _ in started] == ["filter=ReSTEMFilter_seed=2"]
    assert len(json.loads((folder / "sweep.json").read_text())["runs"]) == 5
    assert "| all " not in capfd.readouterr().out

    # a folder of runs is its runs, in the sweep's order
    assert main(["report", str(folder)]) == 0
    report = (folder / "report.md").read_text()
    assert report.index("filter=ReSTEMFilter_seed=2") < report.index("filter=RandomFilter_seed=0")
    assert (
        main(["report", *(str(place) for place in sorted(folder.iterdir())), "--output", str(tmp_path / "a.html")]) == 0
    )

    # other settings below the same names are refused before anything starts, as is a mistake in the last value
    started.clear()
    capfd.readouterr()
    assert sweep(*OVER, "--seeds", 2, "--output", folder, "--model.inner_loop.epochs", 1) == 2
    assert (
        f"seal: {folder}/{names[0]}: holds a run with model.inner_loop.epochs 2, but now it is 1: "
        in capfd.readouterr().err
    )
    assert sweep("--over", "model.inner_loop.rank=2,4,eight", "--output", folder) == 2
    expected = "--over model.inner_loop.rank=eight: expected a whole number, got 'eight'"
    assert capfd.readouterr().err.splitlines()[-1] == f"seal: {expected}"
    assert started == []

    # a run that fails stops no other
    failing = json.dumps([{"class_path": "failing.Failing"}])
    (tmp_path / "failing.py").write_text(FAILING)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert sweep("--over", f"trainer.callbacks={failing},null", "--seeds", 1, "--output", tmp_path / "other") == 1
    out, err = capfd.readouterr()
    assert [name[:16] for name, _ in started] == ["callbacks=-class", "callbacks=null_s"]
    assert "Not in the table, because they failed: 1 of 2 runs." in out and "RuntimeError: no more of this" in out
    assert err.splitlines()[-1].startswith("seal: 1 of 2 runs failed (callbacks=-class_path-")
    assert [row["state"] for row in json.loads((tmp_path / "other/sweep.json").read_text())["runs"]] == [
        "failed", "finished",
    ]  # fmt: skip


FAILING = """
from seal_lightning.hooks import SEALCallback

class Failing(SEALCallback):
    def on_e_step_end(self, *args, **options):
        raise RuntimeError("no more of this")
"""


def test_a_dry_run_checks_and_lists(started, tmp_path, capfd):
    assert sweep("--seeds", 2, "--output", tmp_path / "a b", "--dry_run") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "seed=0  (new)" and lines[-1] == "2 runs, 0 of them finished; nothing was started"
    command = shlex.split(lines[3])
    assert command[:2] == ["seal", "fit"] and command[-3:] == [
        "--model.seed=1", "--trainer.default_root_dir", f"{tmp_path}/a b/seed=1",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [] and started == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--over is not set: name what to sweep, as in --over model.inner_loop.rank=2,8, or give --seeds N"),
        (["--seeds", "0"], "--seeds 0: expected how many seeds, such as 3, or a list of them, such as 300,301"),
        (["--seeds", "2", "--jobs", "0"], "--jobs 0: expected 1 or more; leave it out for one at a time"),
        (["--seeds", "2000"], "--over and --seeds: expected at most 1,000 runs, got 2,000: sweep fewer values at once"),
        (["--over", "model.inner_lop.rank=1"], "--over model.inner_lop.rank=1: unknown option; did you mean"),
        (["--over", "model.seed=x,1"], "--seeds [x,1]: expected how many seeds, such as 3, or a list of them"),
        (
            ["--over", "data.train=configs/debug/passages.jsonl,no.jsonl"],
            "--over data.train=no.jsonl: no.jsonl: expected",
        ),
        (
            ["--over", "model.source.name=random/llama,random/lama"],
            "--over model.source.name=random/lama: unknown family",
        ),
        (["--over", "trainer.accelerator=cpu,abacus"], "--over trainer.accelerator=abacus: trainer: "),
        (["--seeds", "2", "--filter.k", "0"], "filter.k must be at least 1, got 0"),
        (
            ["--over", "config=configs/debug/random.yaml,no.yaml"],
            "--over config=no.yaml: --config no.yaml: cannot be read",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(started, tmp_path, capfd, args, said):
    assert sweep(*args, "--output", tmp_path / "sweep") == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"seal: {said}")
    assert not (tmp_path / "sweep").exists() and started == []


def test_gpus_are_shared_out_and_cpus_get_one_thread_a_run(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS")
    one, two = (grid.Checked(frozenset(), tuple("0123"), each) for each in (1, 2))
    assert running.environments(4, one) == [{"CUDA_VISIBLE_DEVICES": name} for name in "0123"]
    assert running.environments(2, two) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    on_cpus = grid.Checked(frozenset())
    assert running.environments(1, on_cpus) == [{}]
    assert running.environments(2, on_cpus) == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}]
