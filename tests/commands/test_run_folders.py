"""A fit takes a folder of its own, unless it goes on with a run: nothing is written over, mixed or lost."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from seal_lightning.cli import main
from seal_lightning.commands.run_folders import counted, is_finished, new_start, newest_after, requeued, resumed
from seal_lightning.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from seal_lightning.files.ownership import owning
with owning(Path(sys.argv[1]), option="x"):
    print("holding", flush=True)
    sys.stdin.read()
"""
TASK = {"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"edit": "facts"}}
SETTINGS = {"model": {"seed": 0, "task": TASK}, "trainer": {"max_epochs": 2}}
OTHER = {**SETTINGS, "model": {"seed": 1}}
RUN = Path("runs/run")
TINY = ["--trainer.max_epochs=1", "--trainer.validate_first=false", "--data.validation=null", "--data.test=null"]
TINY += ["--model.e_step.edits=1", "--model.e_step.repeats=1", "--trainer.logger=false", "--data.limit_train=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)


class Breaks(Callback):
    """Ends a fit between its E-step and its M-step."""

    def on_train_batch_start(self, *args):
        raise KeyError("a defect")


def begin(folder, settings=SETTINGS, *, finished=None, command="fit", at=1):
    """A folder as a fit leaves it; `at` is when it was started."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"# seal {command} --config x\n{yaml.safe_dump(settings)}")
    os.utime(folder / "config.yaml", (at, at))
    if finished is not None:
        (folder / "run.json").write_text(json.dumps({"finished": finished, "stamp": {}, "changes": []}))


def new(settings=SETTINGS, named=RUN):
    with ExitStack() as held:
        choice = new_start(named, settings, held)
    return choice.folder.as_posix(), choice.reason


# -- a new start -------------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_empty_is_taken_without_a_word():
    assert new() == ("runs/run", "")
    RUN.mkdir(parents=True)
    assert new() == ("runs/run", "")
    (RUN / "notes.txt").write_text("mine")
    assert new() == ("runs/run", "")


def test_a_finished_run_stays_as_it_is():
    begin(RUN, finished=True)
    assert new() == ("runs/run-2", "run folder: runs/run-2 (runs/run holds a finished run)")
    begin(Path("runs/run-2"), finished=True)
    assert new()[0] == "runs/run-3"
    assert new(named=Path("runs/run-2"))[0] == "runs/run-3"  # not run-2-2


def test_a_run_that_is_not_finished_goes_on_if_its_settings_are_the_same():
    begin(RUN, finished=True)
    begin(Path("runs/run-2"), finished=False)
    said = "resuming in runs/run-2, whose run is not finished (runs/run holds a finished run)"
    assert new() == ("runs/run-2", said)
    longer = {**SETTINGS, "trainer": {"max_epochs": 9}, "log_level": "debug"}  # what may change on a resume
    assert new(longer) == ("runs/run-2", said)
    assert new(OTHER)[0] == "runs/run-3"
    assert new(OTHER)[1].endswith("(runs/run holds a finished run; runs/run-2 holds a run with other settings)")


def test_a_folder_of_something_else_and_one_that_is_in_use():
    begin(RUN, command="adapt")
    Path("runs/run-2").write_text("a file")
    command, pipe = [sys.executable, "-c", HOLD, "runs/run-3"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"holding\n"
        said = "runs/run holds something else; runs/run-2 is a file; and 1 more"
        assert new() == ("runs/run-4", f"run folder: runs/run-4 ({said})")
        other.stdin.close()
    assert new()[0] == "runs/run-3"
    Path("file").write_text("")
    with pytest.raises(ConfigError, match=r"trainer\.default_root_dir=file/run: Not a directory; choose a folder"):
        new(named=Path("file/run"))


def test_runs_of_earlier_versions_are_finished_when_they_have_their_table():
    begin(RUN)
    assert not is_finished(RUN)
    (RUN / "fit.json").write_text("[]")
    assert is_finished(RUN)
    begin(RUN, finished=False)  # resumed since, with more rounds
    assert not is_finished(RUN)


def test_settings_that_tell_runs_apart():
    config = {
        "model": {"predict": "edits", "seed": 0, "inner_loop": {"max_adapters": 3, "rank": 4}},
        "log_level": "info",
    }
    config |= {"trainer": {"devices": 2, "precision": "bf16-true", "logger": None}, "checkpoint": {"mode": "max"}}
    expected = {"model.seed": 0, "model.inner_loop.rank": 4, "trainer.precision": "bf16-true", "checkpoint.mode": "max"}
    assert counted(config) == expected


# -- a resume ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_leads_to_the_newest_run_with_the_same_settings():
    assert resumed(RUN, SETTINGS, checkpoint="last").folder == RUN  # where it says that there is none
    begin(RUN, finished=True, at=1)
    begin(Path("runs/run-2"), finished=False, at=2)
    begin(Path("runs/run-3"), OTHER, finished=False, at=3)
    assert resumed(RUN, SETTINGS, checkpoint="last").folder == Path("runs/run-2")
    assert resumed(RUN, OTHER, checkpoint="best").folder == Path("runs/run-3")
    assert resumed(RUN, {"model": {"seed": 9}}, checkpoint="last").folder == Path(
        "runs/run-3"
    )  # which says what differs
    assert resumed(RUN, SETTINGS, checkpoint="runs/run/checkpoints/last.ckpt").folder == RUN
    os.utime("runs/run/config.yaml", (9, 9))
    assert resumed(RUN, SETTINGS, checkpoint="last").folder == RUN


def test_a_job_that_was_requeued_finds_the_run_that_it_began():
    assert requeued(RUN, SETTINGS) is None
    begin(RUN, finished=True, at=5)
    assert requeued(RUN, SETTINGS) is None  # its own had not begun
    begin(Path("runs/run-2"), finished=False, at=2)
    assert requeued(RUN, SETTINGS).folder == Path("runs/run-2")


# -- the command -------------------------------------------------------------------------------------------------------


def fit(capfd, *args):
    """What `seal fit` says about its folder; it is started in this process."""
    assert main(["fit", "--config", "debug/random", *TINY, *args]) == 0
    out, err = capfd.readouterr()
    return [line for line in err.splitlines() if line.startswith("fit:")], out


def test_the_command_numbers_its_folders_and_goes_on_after_a_kill(capfd):
    first, out = fit(capfd)
    assert first == [] and "run folder: runs/debug-random  (" in out
    before = {path: path.read_bytes() for path in Path("runs/debug-random").rglob("*") if path.is_file()}
    assert json.loads(before[Path("runs/debug-random/run.json")])["finished"] is True

    broken = [*TINY, "--data.limit_train=null", f"--trainer.callbacks={__name__}.Breaks"]
    assert main(["fit", "--config", "debug/random", *broken]) == 1
    assert "run folder: runs/debug-random-2 (runs/debug-random holds a finished run)" in capfd.readouterr().err
    journal = Path("runs/debug-random-2/journal/train-000.rank-0.jsonl")
    units = journal.read_text()
    said, out = fit(capfd, "--data.limit_train=null")
    passed = "(runs/debug-random holds a finished run)"
    assert said == [f"fit: resuming in runs/debug-random-2, whose run is not finished {passed}"]
    assert "next: seal test --config runs/debug-random-2/config.yaml" in out
    assert journal.read_text() == units != ""
    assert yaml.safe_load(Path("runs/debug-random-2/config.yaml").read_text())["trainer"]["default_root_dir"] == (
        "runs/debug-random-2"
    )

    said, out = fit(capfd, "--data.limit_train=null", "--ckpt_path", "last", "--trainer.max_epochs=2")
    assert said == ["fit: resuming in runs/debug-random-2"]
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in Path("runs").iterdir()) == ["debug-random", "debug-random-2"]


def test_an_evaluation_says_where_a_newer_fit_lies(capfd):
    begin(Path("runs/debug-random"), at=1)
    assert newest_after(Path("runs/debug-random")) is None
    begin(Path("runs/debug-random-2"), at=3)
    begin(Path("runs/debug-random-3"), at=2)
    assert newest_after(Path("runs/debug-random")) == Path("runs/debug-random-2")
    newer = (
        "test: of the run in runs/debug-random; a newer one is in runs/debug-random-2: --config "
        "runs/debug-random-2/config.yaml"
    )
    test, without = ["test", "--config", "debug/random"], "--data.test=null"  # which is refused, after the line
    assert main([*test, without]) == 2
    assert newer in capfd.readouterr().err.splitlines()
    Path("runs/debug-random/config.yaml").write_text("trainer:\n  default_root_dir: runs/debug-random\n")
    for named in (["--config", "runs/debug-random/config.yaml"], ["--trainer.default_root_dir=runs/debug-random"]):
        assert main([*test, *named, without]) == 2
        assert "a newer one" not in capfd.readouterr().err


def test_a_folder_on_the_command_line_is_taken_as_it_is(capfd):
    for _ in range(2):
        said, out = fit(capfd, "--trainer.default_root_dir", "mine")
        assert said == [] and "run folder: mine  (" in out
    assert main(["fit", "--config", "debug/random", "--trainer.default_root_dir=mine", "--model.seed", "3"]) == 2
    assert "mine/run.json: written with other settings" in capfd.readouterr().err
    assert not Path("runs").exists()
