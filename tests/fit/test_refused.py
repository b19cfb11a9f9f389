"""Refused means untouched: a command that is refused leaves its folder byte for byte as it was, or makes none."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fault_injection import Launch
from fault_injection import fit as fit_on_ranks

from seal_lightning.cli import main
from seal_lightning.files.ownership import OWNER, read_owner
from seal_lightning.grading import Grader

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "debug" / "random.yaml"
HOLD = """
import sys, time
from pathlib import Path
from seal_lightning.files.ownership import owning
with owning(Path(sys.argv[1]), option="x"):
    print("holding", flush=True)
    time.sleep(600)
"""
MODEL = """\
model:
  source: {name: random/llama}
  sampler: WrittenEdits
  inner_loop: {rank: 4, alpha: 8, epochs: 1}
  grader: contains
  max_answer_tokens: 4
"""
SERVED = "seal_lightning.sampling.ServerSampler"
SERVER = {"class_path": "seal_lightning.sampling.AdapterServer", "init_args": {"base_url": "http://127.0.0.1:9/v1"}}


class Trespasser(Grader):
    """While it grades, another process tries to own the folder; `found` gets what that was told."""

    def __init__(self, folder: str, found: str) -> None:
        self.folder, self.found = folder, found

    def grade(self, *, question, golds, answer):
        if not Path(self.found).exists():
            Path(self.found).write_text(trespass(self.folder))
        return 0.0


def trespass(folder: str | Path) -> str:
    """What a second process that wants the folder is told; empty where it gets it."""
    code = "import sys; from pathlib import Path; from seal_lightning.files.ownership import owning\n"
    code += "with owning(Path(sys.argv[1]), option='x'): pass"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2]


@pytest.fixture
def held():
    """Let another process own a folder: `held(folder)`."""
    started = []

    def hold(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "holding\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def seal(monkeypatch, capfd):
    """Run `seal` in the repository; returns exit code and stderr."""
    monkeypatch.chdir(ROOT)

    def run(*args):
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return code, capfd.readouterr().err

    return run


def contents(folder):
    """Every file below a folder with its digest, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def fit(seal, run, *args, rounds=1):
    return seal(
        "fit", "--config", CONFIG, "--trainer.max_epochs", rounds, "--trainer.default_root_dir", run, *args
    )  # fmt: skip


@pytest.fixture
def run(seal, once, tmp_path):
    """A copy of the folder of a fit of one round, after a test."""

    def fill(folder):
        assert fit(seal, folder / "run")[0] == 0
        code, err = seal("test", "--config", folder / "run" / "config.yaml", "--ckpt_path", "best")
        assert code == 0, err

    made = once("refused-fit", fill) / "run"
    text = (made / "config.yaml").read_text()
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text.replace(str(made), str(tmp_path / "run")))
    return tmp_path / "run"


# -- fit, validate, test, predict --------------------------------------------------------------------------------------

BAD = {
    "no such data": ["--data.{split}", "nowhere.jsonl"],
    "a broken row": ["--data.{split}", "{bad}/broken.jsonl"],
    "too long a passage": ["--data.{split}", "{bad}/long.jsonl"],
    "no such model": ["--model.source.name", "{bad}/nothing"],
    "no such option": ["--model.nonsense", "1"],
    "a wrong value": ["--model.max_answer_tokens", "many"],
    "no such checkpoint": ["--ckpt_path", "{bad}/nothing.ckpt"],
    "a damaged checkpoint": ["--ckpt_path", "{bad}/broken.jsonl"],
    "no such class": ["--model.grader", "nowhere.Grader"],
    "no such device": ["--trainer.accelerator", "abacus"],
    "nothing to adapt": ["--model.inner_loop.target_modules", "[nothing]"],
}
BAD_FIT = {
    "another learning rate": ["--model.inner_loop.learning_rate", "0.5"],
    "another seed": ["--model.seed", "9"],
    "other edits": ["--model.e_step.edits", "3"],
    "other data": ["--data.train", "configs/debug/passages-validation.jsonl"],
    "a filter that does not fit": ["--model.e_step.racing.budget", "0.5", "--filter", "RandomFilter"],
    "a filter that is none": ["--filter.k", "-1"],
    "another base": ["--model.source.name", "random/gpt2", "--ckpt_path", "last"],
}
REFUSALS = [("fit", name, options) for name, options in {**BAD, **BAD_FIT}.items()]
REFUSALS += [(command, name, BAD[name]) for command in ("validate", "test", "predict") for name in BAD]
REFUSALS.remove(("predict", "nothing to adapt", BAD["nothing to adapt"]))  # it writes edits, and adapts to none


@pytest.fixture
def bad(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.jsonl").write_text('{"title": ')
    row = {"title": "t", "context": "word " * 5000, "questions": [{"question": "q", "answer": "a"}]}
    (tmp_path / "bad" / "long.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path / "bad"


@pytest.mark.parametrize(("command", "name", "options"), REFUSALS, ids=[f"{c}: {n}" for c, n, _ in REFUSALS])
def test_a_refused_command_leaves_the_run_as_it_was(seal, run, bad, command, name, options):
    split = {"fit": "train", "validate": "validation"}.get(command, command)
    options = [option.format(split=split, bad=bad) for option in options]
    here = ["--trainer.default_root_dir", run] if command == "fit" else []  # else a fit takes the next number
    before = contents(run)
    code, err = seal(command, "--config", run / "config.yaml", *here, *options)
    assert code == 2, err
    assert err.count("\n") == 1 and err.startswith("seal: ")
    assert contents(run) == before
    if name in BAD:  # else a new folder has nothing that it differs from
        new = ["--trainer.default_root_dir", bad / "new" / "run"]
        code, err = seal(command, "--config", run / "config.yaml", *new, *options)
        assert code == 2, err
        assert not (bad / "new").exists()


def test_a_server_that_does_not_answer_leaves_the_run_as_it_was(seal, run, tmp_path):
    sampler = {"model": {"sampler": {"class_path": SERVED, "init_args": {"server": SERVER}}}}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(sampler))
    before = contents(run)
    for command in ("fit", "test", "predict"):
        code, err = seal(command, "--config", run / "config.yaml", "--config", tmp_path / "served.yaml")
        assert code != 0, err
        assert contents(run) == before


def test_after_a_refusal_a_test_runs_with_the_settings_of_the_run(seal, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert fit(seal, run, "--model.inner_loop.learning_rate", "0.5", "--model.seed", "9")[0] == 2
    assert yaml.safe_load((run / "config.yaml").read_text()) == config
    assert seal("test", "--config", run / "config.yaml", "--ckpt_path", "best")[0] == 0
    tested = yaml.safe_load((run / "config-test.yaml").read_text())["model"]
    assert (tested["seed"], tested["inner_loop"]["learning_rate"]) == (0, 0.001)


def test_settings_that_a_folder_was_not_given_by_us_are_not_written_over(seal, run, tmp_path):
    for name, content in {
        "config.yaml": "# mine\ntrainer: {}\n",
        "settings.yaml": "mine: 1\n",
    }.items():
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / name).write_text(content)
        code, err = fit(seal, tmp_path / "mine")
        assert code == 2 and f"got one with a {name} that seal fit did not write" in err
        assert os.listdir(tmp_path / "mine") == [name]
        shutil.rmtree(tmp_path / "mine")
    for command in ("adapt", "continual"):
        (run / "config.yaml").write_text(f"# seal {command} --config {run}/config.yaml\n")
        before = contents(run)
        for other in ("fit", "test", "predict"):
            code, err = seal(other, "--config", CONFIG, "--trainer.default_root_dir", run)
            assert (
                code == 2 and f"expected a run's folder or a new one, got one of seal {command}: choose another" in err
            )
            assert contents(run) == before


# -- one owner ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_run_that_another_process_owns_is_left_alone(seal, run, held, command):
    owner = held(run)
    before = contents(run)
    code, err = seal(command, "--config", run / "config.yaml", "--ckpt_path", "best")
    assert code == 2
    assert err.startswith(f"seal: trainer.default_root_dir={run}: in use by python, process {owner.pid} on ")
    assert err.endswith(": wait until it has ended, or choose another folder. Nothing was changed\n")
    assert contents(run) == before
    for words in (["report", run, "--output", run.parent / "page.html"], ["replay", run]):  # which only read
        assert seal(*words)[0] == 0
    assert contents(run) == before


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_command_owns_its_run_folder_until_it_ends(seal, tmp_path, command):
    run, found = tmp_path / "run", tmp_path / "found"
    grader = {"class_path": "test_refused.Trespasser", "init_args": {"folder": str(run), "found": str(found)}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"model": {"grader": grader, "predict": "answers"}}))
    sys.modules.setdefault("test_refused", sys.modules[__name__])
    code, err = seal(
        command, "--config", CONFIG, "--config", tmp_path / "more.yaml", "--trainer.max_epochs", 1,
        "--trainer.default_root_dir", run,
    )  # fmt: skip
    assert code == 0, err
    if command != "predict":  # which grades nothing
        assert re.search(rf"FolderInUse: x: in use by py\w+, process {os.getpid()} on", found.read_text())
    assert trespass(run) == ""
    assert not (run / OWNER).exists()


def test_two_fits_at_once_and_one_after_a_kill(seal, tmp_path):
    """The second is refused at once; once the first is killed, a third gets the folder and ends as if alone."""
    run = tmp_path / "run"
    args = ["fit", "--config", CONFIG, "--trainer.max_epochs", 1, "--trainer.default_root_dir", run]
    (first,) = Launch([*args, "--model.inner_loop.epochs", 20], ranks=1, log=tmp_path / "first.log").ranks
    while not any((run / "journal").glob("train-*")):
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # it is at work for as long as it takes to be refused
    settings = {name: digest for name, digest in contents(run).items() if name.endswith(".yaml")}
    code, err = seal(*args, "--model.seed", "2")
    assert code == 2
    assert f"in use by seal fit, process {first.pid} on" in err
    assert settings.items() <= contents(run).items()
    first.kill()
    first.join()
    assert read_owner(run / OWNER).process == first.pid
    code, err = seal(*args, "--model.inner_loop.epochs", "20")
    assert code == 0, err
    for journal in (run / "journal").glob("*.jsonl"):
        stamps = [row["stamp"]["seed"] for row in map(json.loads, journal.read_text().splitlines()) if "stamp" in row]
        assert stamps == [0]


@pytest.mark.slow
def test_ranks_that_others_have_started_are_all_refused(held, tmp_path):
    run = tmp_path / "run"
    owner = held(run)
    before = contents(run)
    launch = fit_on_ranks(run, "ddp", "--trainer.default_root_dir", str(run))
    assert launch.wait(together=False, seconds=120) == [2, 2]
    assert f"in use by python, process {owner.pid} on" in launch.log.read_text()
    assert contents(run) == before


def test_fits_one_after_another_in_a_process(seal, tmp_path):
    for rounds in (1, 2):
        code, err = fit(seal, tmp_path / "run", "--ckpt_path", "last", rounds=rounds)
        assert code == 0, err
    assert seal("test", "--config", tmp_path / "run" / "config.yaml")[0] == 0


# -- adapt and continual -----------------------------------------------------------------------------------------------


@pytest.fixture
def standalone(seal, tmp_path):
    """Run `seal adapt` or `seal continual` with an output folder and more options."""
    (tmp_path / "model.yaml").write_text(MODEL)
    rows = [
        {
            "id": name,
            "title": name,
            "passage": f"{name} sells salt.",
            "queries": [{"question": "What?", "answers": ["salt"]}],
        }
        for name in ("Ada", "Bea")
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(name, output, *options):
        data = [tmp_path / "data.jsonl"] if name == "adapt" else ["--data", tmp_path / "data.jsonl", "--contexts", 2]
        more = [] if name == "adapt" else ["--orders", 1]
        return seal(name, *data, "--config", tmp_path / "model.yaml", "--output", output, *more, *options)

    return command


COMMANDS = ["adapt", "continual"]
OTHER = {
    "adapt": [
        ["--resume", "--model.inner_loop.epochs", "2"],
        ["--resume", "--model.seed", "5"],
        ["--resume", "--model.grader", "recall", "--model.inner_loop.rank", "2"],
        ["--resume", "--model.source.name", "random/gpt2"],
    ],
    "continual": [
        ["--resume", "--model.inner_loop.epochs", "2"],
        ["--resume", "--model.seed", "5"],
        ["--resume", "--countermeasures", "norm", "--model.inner_loop.rank", "2"],
        ["--resume", "--model.source.name", "random/gpt2"],
    ],
}
NEITHER = [
    [],
    ["--resume", "--model.source.name", "nowhere/nothing"],
    ["--resume", "--model.nonsense", "1"],
    ["--resume", "--model.inner_loop.target_modules", "[nothing]"],
    ["--resume", "--policy", "nowhere"],
]


@pytest.mark.parametrize("name", COMMANDS)
def test_adapt_and_continual_when_refused_leave_the_folder_as_it_was(standalone, tmp_path, name):
    output = tmp_path / "output"
    code, err = standalone(name, output)
    assert code == 0, err
    before = contents(output)
    for options in [*NEITHER, *OTHER[name]]:
        code, err = standalone(name, output, *options)
        assert code == 2, (options, err)
        assert contents(output) == before, options
    for options in NEITHER[1:]:
        code, err = standalone(name, tmp_path / "new" / "output", *options)
        assert code == 2, (options, err)
        assert not (tmp_path / "new").exists(), options


def test_adapters_of_passages_are_not_joined_by_self_edits(standalone, tmp_path):
    output = tmp_path / "output"
    assert standalone("adapt", output, "--learn", "passage")[0] == 0
    before = contents(output)
    code, err = standalone("adapt", output, "--resume")
    assert code == 2 and "run.json: written with other settings (" in err and 'learn: was "passage", is "edits"' in err
    assert contents(output) == before


def test_a_later_countermeasure_with_other_settings_is_found_before_the_matrices_are_written(standalone, tmp_path):
    output, measure = tmp_path / "output", "seal_lightning.commands.continual.Replay"
    options = tmp_path / "measure.yaml"
    options.write_text(f"countermeasures: [{{class_path: {measure}, init_args: {{share: 1.0}}}}]\n")
    code, err = standalone("continual", output, "--config", options)
    assert code == 0, err
    before = contents(output)
    options.write_text(options.read_text().replace("share: 1.0", "share: 2.0"))
    code, err = standalone("continual", output, "--config", options, "--resume")
    assert code == 2 and "countermeasure" in err, err
    assert contents(output) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_one_owner_of_an_output_folder(standalone, held, tmp_path, name):
    output, found = tmp_path / "output", tmp_path / "found"
    owner = held(output)
    before = contents(output)
    code, err = standalone(name, output, "--resume")
    assert code == 2
    assert err.startswith(f"seal: --output {output}: in use by python, process {owner.pid} on ")
    assert contents(output) == before
    owner.kill()
    owner.wait()
    sys.modules.setdefault("test_refused", sys.modules[__name__])
    grader = {"class_path": "test_refused.Trespasser", "init_args": {"folder": str(output), "found": str(found)}}
    (tmp_path / "grader.yaml").write_text(yaml.safe_dump({"model": {"grader": grader}}))
    code, err = standalone(name, output, "--config", tmp_path / "grader.yaml")  # what was left behind is no obstacle
    assert code == 0, err
    assert "FolderInUse: x: in use by " in found.read_text()
    assert trespass(output) == "" and not (output / OWNER).exists()
