"""The command line: what it prints where and what it saves; a configuration that it prints gives the same run."""

import json
import logging
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from seal_lightning import __version__
from seal_lightning.cli import _quiet, main
from seal_lightning.commands.names import COMMANDS
from seal_lightning.results.table import Table
from seal_lightning.sampling import LocalSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.text.redaction import without_secrets

ROOT = Path(__file__).resolve().parent.parent
RANDOM = "configs/debug/random.yaml"
GROUPS = ("trainer", "model", "data", "filter", "checkpoint", "table", "progress")


class RemoteSampler(LocalSampler):
    """A sampler with a secret."""

    def __init__(self, *, api_key: str | None = None, url: str = "") -> None:
        super().__init__(max_new_tokens=8)


class Telling(Knowledge):
    """A task that has something to add to the table."""

    def tables(self, validations):
        rows = tuple((str(number), str(len(validations[number]))) for number in sorted(validations))
        return [Table("Rollouts", ("round", "count"), rows)]


class Stop(Callback):
    """Ends the run with an exception."""

    def __init__(self, with_interrupt: bool = False) -> None:
        self.error = KeyboardInterrupt() if with_interrupt else KeyError("a defect")

    def on_train_start(self, *args):
        raise self.error


@pytest.fixture
def seal(monkeypatch, capfd):
    """Run `seal` in the repository; returns exit code, stdout and stderr."""
    monkeypatch.chdir(ROOT)

    def run(*args):
        capfd.readouterr()
        return main([str(arg) for arg in args]), *capfd.readouterr()

    return run


@pytest.fixture
def printed(seal):
    """The configuration that `seal fit` would run with."""

    def run(*args):
        code, out, err = seal("fit", *args, "--print_config")
        assert (code, err) == (0, "")
        return yaml.safe_load(out)

    return run


def journal(run):
    """What a run's journals hold, but for the seconds."""
    lines = [line for path in sorted((run / "journal").iterdir()) for line in path.read_text().splitlines()]
    return [{**json.loads(line), "seconds": None} for line in lines]


def fit(seal, run, *args):
    return seal("fit", *args, "--trainer.max_epochs", 1, "--trainer.default_root_dir", run)


@pytest.fixture
def fitted(seal, once):
    """A fit of one round that tests here share: its folder, exit code, stdout, stderr, and what its journals held."""

    def fill(folder):
        said = fit(seal, folder / "run", "--config", RANDOM)
        (folder / "said.json").write_text(json.dumps([*said, journal(folder / "run")]))

    made = once("random-fit", fill)
    return made / "run", *json.loads((made / "said.json").read_text())


# -- help --------------------------------------------------------------------------------------------------------------


def test_version_and_help(seal):
    assert seal("--version") == (0, f"seal-lightning {__version__}\n", "")
    code, out, _ = seal("--help")
    assert code == 0 and all(command in out for command in COMMANDS)
    assert seal() == (2, out, "")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_a_command(seal, command):
    code, out, err = seal(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: seal {command} [--config FILE ...]") and COMMANDS[command].about in " ".join(
        out.split()
    )
    assert all(f"--{group}" in out for group in GROUPS)
    assert "--ckpt_path" in out
    assert not any(f"--{name}" in out for name in ("verbose", "weights_only", "return_predictions", "dataloaders"))
    assert "<function" not in out and "0x" not in out
    assert "U+0008" not in out and ("--print_config[=flags]" in out) == ("--print_config" in out)


# -- configurations ----------------------------------------------------------------------------------------------------


def test_a_printed_configuration_gives_the_same_run(seal, printed, fitted, tmp_path):
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(printed("--config", RANDOM)))
    assert printed("--config", tmp_path / "printed.yaml") == printed("--config", RANDOM)
    assert fit(seal, tmp_path / "run", "--config", tmp_path / "printed.yaml")[0] == 0
    assert journal(tmp_path / "run") == fitted[-1] != []


def test_json_works_like_yaml(printed):
    assert printed("--config", RANDOM) == printed("--config", "configs/debug/random.json")


def test_later_files_and_options_win(printed, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: {seed: 1, inner_loop: {rank: 2, epochs: 3}}\nfilter: {init_args: {k: 3}}")
    second.write_text("model: {inner_loop: {rank: 4}}\n")
    found = printed("--config", first, "--config", second, "--model.inner_loop.epochs", 5)
    assert found["model"]["seed"] == 1
    assert (found["model"]["inner_loop"]["rank"], found["model"]["inner_loop"]["epochs"]) == (4, 5)
    assert found["filter"] == {
        "class_path": "seal_lightning.ReSTEMFilter",
        "init_args": {"k": 3, "above": 0.0, "min_reward": None, "min_gain": None, "max_similarity": None},
    }


@pytest.mark.parametrize(
    ("args", "path", "value"),
    [
        (["--filter.k", "2"], "filter.init_args.k", 2),
        (["--filter.class_path", "seal_lightning.callbacks.ReSTEMFilter", "--filter.k=2"], "filter.init_args.k", 2),
        (["--filter", "ReSTEMFilter", "--filter.min_gain", "0.5"], "filter.init_args.min_gain", 0.5),
        (["--model.task.edit", "rewrite"], "model.task.init_args.edit", "rewrite"),
        (["--model.sampler.max_new_tokens", "9"], "model.sampler.init_args.max_new_tokens", 9),
        (["--model.sampler", "WrittenEdits"], "model.sampler.class_path", "seal_lightning.sampling.WrittenEdits"),
        (["--model.inner_loop.rank", "8"], "model.inner_loop.rank", 8),
        (["--model.inner_loop.learning_rate", "1e-4"], "model.inner_loop.learning_rate", 1e-4),
    ],
)
def test_short_forms(printed, args, path, value):
    found = printed(*args)
    for key in path.split("."):
        found = found[key]
    assert found == value


def test_secrets_are_not_saved():
    content = {
        "class_path": "mine.Endpoint",
        "init_args": {"api_key": "sk-1", "hf_token": "hf-2", "max_new_tokens": 3, "url": "https://me:pass@host/v1"},
        "list": [{"password": "p", "secret": None, "eos_token": 5}],
    }
    assert without_secrets(content) == {
        "class_path": "mine.Endpoint",
        "init_args": {"max_new_tokens": 3, "url": "https://host/v1"},
        "list": [{"secret": None, "eos_token": 5}],
    }


def test_a_saved_configuration_has_no_secrets_and_loads_again(seal, printed, tmp_path):
    secrets = ["--model.sampler.api_key", "sk-very-secret", "--model.sampler.url", "http://me:hidden@localhost"]
    code, _, err = fit(
        seal, tmp_path / "run", "--config", RANDOM, "--model.sampler", f"{__name__}.RemoteSampler", *secrets
    )
    assert (code, err) == (0, "")
    saved = tmp_path / "run" / "config.yaml"
    text = saved.read_text()
    assert text.startswith(f"# seal fit --config {saved}\n")
    assert "sk-very-secret" not in text and "hidden" not in text
    sampler = printed("--config", saved)["model"]["sampler"]
    assert sampler == {
        "class_path": f"{__name__}.RemoteSampler",
        "init_args": {"api_key": None, "url": "http://localhost"},
    }


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_commands_after_a_fit(seal, fitted):
    run, code, out, err, _ = fitted
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"next: seal test --config {run / 'config.yaml'} --ckpt_path best"

    for command, table in (("test", "test"), ("validate", "validation")):
        code, out, err = seal(command, "--config", run / "config.yaml", "--ckpt_path", "best")
        assert (code, err) == (0, "")
        assert out.count("| base ") == 1 and "┃" not in out  # our table, and not Lightning's above it
        assert out.endswith(f"saved: {run / table}.md and .json\n")
        assert [row["name"] for row in json.loads((run / f"{table}.json").read_text())["accuracy"]] == [
            "base",
            "passage",
            "edits",
        ]

    code, out, err = seal("predict", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert (code, err) == (0, "")
    said = re.fullmatch(  # random models hardly ever end
        rf"4 self-edits, (\d) of them rejected, in {re.escape(str(run / 'edits.jsonl'))}\n"
        r"cut or left out: (\d) self-edits cut at the sampler's max_new_tokens\n",
        out,
    )
    assert said is not None and int(said[1]) + int(said[2]) == 4, out
    edits = [json.loads(line) for line in (run / "edits.jsonl").read_text().splitlines()]
    assert [edit["edit_index"] for edit in edits] == [0, 1, 0, 1]
    assert len({edit["context_id"] for edit in edits}) == 2

    names = {path.name for path in run.glob("config*")}
    assert names == {"config.yaml", "config-test.yaml", "config-validate.yaml", "config-predict.yaml"}
    assert seal("test", "--config", run / "config-test.yaml", "--print_config")[0] == 0


def test_what_a_task_has_to_add_stands_below_the_table(seal, tmp_path):
    run, task = tmp_path / "run", ["--model.task", f"{__name__}.Telling"]
    code, out, err = fit(seal, run, "--config", RANDOM, *task)
    assert (code, err) == (0, "")
    head = " |\n\nRollouts:\n\n| round | count |\n| ----- | ----- |\n"
    rows = ["| 0     | 4     |\n", "| 1     | 4     |\n"]
    below = f"{head}{''.join(rows)}\nCut or left out: "  # random models do not end
    assert below in out and below in (run / "fit.md").read_text()
    code, out, err = seal("test", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert (code, err) == (0, "")
    assert f"{head}{rows[1]}\nCut or left out: " in out
    assert out.endswith(f"saved: {run / 'test.md'} and .json\n")


def test_an_interrupted_run_says_how_to_go_on(seal, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    try:
        stop = ["--trainer.callbacks+", f"{__name__}.Stop", "--trainer.callbacks.with_interrupt", "true"]
        code, _, err = fit(seal, tmp_path / "run", "--config", RANDOM, *stop)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning lets no second Ctrl+C through
    assert code == 130
    assert err == "seal: interrupted; finished units are in the journal, resume with --ckpt_path last\n"


def test_a_defect_is_one_line_too(seal, tmp_path):
    code, _, err = fit(seal, tmp_path / "run", "--config", RANDOM, "--trainer.callbacks+", f"{__name__}.Stop")
    assert (code, err) == (1, "seal: KeyError: 'a defect' (for the traceback: --log_level debug)\n")


def test_a_command_without_log_level_gives_no_hint_of_it(seal, monkeypatch):
    monkeypatch.setattr("seal_lightning.commands.report.main", lambda args: {}["a defect"])
    assert seal("report") == (1, "", "seal: KeyError: 'a defect'\n")


# -- what is on the screen ---------------------------------------------------------------------------------------------


def test_our_warnings_show_and_others_do_not(capsys):
    with _quiet("warning"):
        logging.getLogger("seal_lightning.data").warning("two rows were merged")
        warnings.warn("something in a library", UserWarning, stacklevel=2)
    assert capsys.readouterr().err == "seal_lightning.data: WARNING: two rows were merged\n"


def test_a_run_prints_its_results_and_nothing_else(tmp_path):
    script = Path(sys.executable).with_name("seal")
    args = ["fit", "--config", RANDOM, "--trainer.max_epochs", "1", "--trainer.default_root_dir", tmp_path / "run"]
    done = subprocess.run([script, *args], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    starts = ["validation before", "round 1 E-step", "round 1 M-step", "validation after", "|   ", "| ---", "| base"]
    starts += ["| passage", "| edits before training", "| edits after round 1", "", "Cut or left out: ", "saved"]
    starts += ["run folder", "best", "  not compared with the untrained policy", "next"]
    lines = done.stdout.splitlines()
    assert len(lines) == len(starts) and all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_libraries_talk_on_stderr_when_debugging(tmp_path):
    script = Path(sys.executable).with_name("seal")
    args = [script, "fit", "--config", RANDOM, "--log_level", "debug", "--print_config"]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["log_level"] == "debug"
