"""Runs from Python: docs/python.md as it stands, what a run leaves, what goes on from it, and what is refused."""

import inspect
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import seal_lightning
from seal_lightning import (
    CheckpointSelection,
    Contains,
    Grader,
    InnerLoop,
    LocalSampler,
    ModelSource,
    Plan,
    PolicyTuning,
    ReSTEMFilter,
    SEALCallback,
    SEALDataModule,
    SEALModule,
    SEALTrainer,
)
from seal_lightning.cli import main
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.options.parser import find_modules_here
from seal_lightning.stamps.arguments import Remembers

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
PASSAGES = str(ROOT / "configs" / "debug" / "passages.jsonl")
HELD_OUT = str(ROOT / "configs" / "debug" / "passages-validation.jsonl")


def parts(run, *, callbacks=None, rounds=1, module=SEALModule, **options):
    """A trainer, a module and a data module that are as small as can be."""
    made = module(
        source=ModelSource("random/llama"),
        tuning=PolicyTuning(rank=2, alpha=4),
        sampler=LocalSampler(max_new_tokens=8),
        inner_loop=InnerLoop(rank=2, alpha=4, epochs=1),
        e_step=Plan(edits=2, repeats=1),
        max_answer_tokens=4,
        **options,
    )
    data = SEALDataModule(
        train=PASSAGES, validation=HELD_OUT, test=HELD_OUT, limit_train=1, limit_validation=1, limit_test=1
    )
    given = list(callbacks or ())
    if not any(isinstance(one, ReSTEMFilter) for one in given):
        given.append(ReSTEMFilter(above=None))  # a model with random weights earns nothing
    if not any(isinstance(one, CheckpointSelection) for one in given):
        given.append(CheckpointSelection(include_untrained=False))
    trainer = SEALTrainer(
        accelerator="cpu", devices=1, max_epochs=rounds, default_root_dir=str(run), callbacks=given, logger=False
    )
    return trainer, made, data


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of one round; its module, as training left it."""
    run = tmp_path_factory.mktemp("python") / "run"
    trainer, module, data = parts(run)
    trainer.fit(module, datamodule=data)
    return run, trainer, module, data


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capfd):
    """On fewer passages than a reader's."""
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if not block.startswith("# my_")]
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        small = block.replace("passages=12, held_out=12", "passages=1, held_out=1").replace("edits=8", "edits=2")
        small = small.replace("max_new_tokens=128", "max_new_tokens=24").replace("max_epochs=2", "max_epochs=1")
        small = small.replace("max_epochs=3", "max_epochs=2")
        exec(compile(small, "docs/python.md", "exec"), names)
    output = capfd.readouterr().out
    assert "| edits " in output and "validation after round 2" in output
    assert Path("runs/python/test.md").read_text() == names["trainer"].table + "\n"
    assert "edits after round 2" in Path("runs/python/fit.md").read_text()
    assert names["best"].e_step.inner_loop.rank == 8
    saved = yaml.safe_load(Path("runs/python/config.yaml").read_text())
    assert saved["data"]["init_args"] | {"passages": 1} == saved["data"]["init_args"]


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_the_folder_is_that_of_the_command(fitted, tmp_path, capfd):
    run, trainer, _, _ = fitted
    same = tmp_path / "same"
    assert main(["fit", "--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(same)]) == 0
    printed = capfd.readouterr().out
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.name != ".owner"}
    assert files == {path.relative_to(same).as_posix() for path in same.rglob("*") if path.name != ".owner"}
    assert {"config.yaml", "settings.yaml", "fit.md", "fit.json", "policy/selection.json", "run.json"} <= files
    for name in ("config.yaml", "settings.yaml"):
        assert (same / name).read_text().replace(str(same), str(run)) == (run / name).read_text()
    for name in ("fit.json", "policy/adapter_model.safetensors"):
        old, new = (run / name).read_bytes(), (same / name).read_bytes()
        assert old == new or name == "fit.json"  # which has seconds
    stamps = [json.loads((folder / "run.json").read_text())["stamp"] for folder in (run, same)]
    assert stamps[0] == stamps[1]
    assert trainer.table.partition("\n")[0].split()[:3] == ["|", "|", "accuracy"] and "saved: " in printed


def test_settings_are_what_was_given(fitted):
    run, trainer, _, _ = fitted
    text = (run / "settings.yaml").read_text()
    assert yaml.safe_load(text) == {
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "default_root_dir": str(run), "logger": False},
        "model": {
            "source": {"name": "random/llama"},
            "tuning": {"rank": 2, "alpha": 4.0},
            "sampler": {"class_path": "seal_lightning.LocalSampler", "init_args": {"max_new_tokens": 8}},
            "inner_loop": {"rank": 2, "alpha": 4.0, "epochs": 1},
            "e_step": {"edits": 2, "repeats": 1},
            "max_answer_tokens": 4,
        },
        "data": {
            "class_path": "seal_lightning.SEALDataModule",
            "init_args": {
                "train": PASSAGES,
                "validation": HELD_OUT,
                "test": HELD_OUT,
                "limit_train": 1,
                "limit_validation": 1,
                "limit_test": 1,
            },
        },
        "filter": {"class_path": "seal_lightning.ReSTEMFilter", "init_args": {"above": None}},
        "checkpoint": {"class_path": "seal_lightning.CheckpointSelection", "init_args": {"include_untrained": False}},
    }
    assert trainer.run_settings == yaml.safe_load((run / "config.yaml").read_text())


def test_commands_and_python_go_on_from_each_other(tmp_path, capfd):
    run = tmp_path / "run"
    trainer, module, data = parts(run)
    trainer.fit(module, data)
    config = ["--config", str(run / "config.yaml")]
    assert main(["fit", *config, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0, capfd.readouterr().err
    again, fresh, data = parts(run, rounds=3)
    again.fit(fresh, datamodule=data, ckpt_path="last")
    assert fresh.rounds_done == 3 and (run / "journal" / "train-002.rank-0.jsonl").is_file()
    assert main(["test", *config, "--ckpt_path", "best"]) == 0
    assert main(["report", str(run)]) == 0 and (run / "report.html").is_file()
    (tmp_path / "note.txt").write_text("Dry Ferry lies on the Gorn.")
    adapt = ["adapt", str(tmp_path / "note.txt"), "--policy", str(run), "--output", str(tmp_path / "out"), "--dry_run"]
    assert main(adapt) == 0, capfd.readouterr().err
    again.test()  # the same objects; of the best round, though the module has gone on
    assert (run / "test.md").read_text() == again.table + "\n"


def test_what_yaml_cannot_hold_is_named(tmp_path, caplog):
    class Half(Grader):
        def grade(self, *, question, golds, answer):
            return 0.5

    class Quiet(SEALCallback):
        pass

    trainer, module, data = parts(tmp_path / "run", callbacks=[Quiet()], grader=Half())
    trainer.fit(module, datamodule=data)
    said = [record.getMessage() for record in caplog.records if "saved configuration" in record.getMessage()]
    assert [text.replace("test_what_yaml_cannot_hold_is_named.<locals>.", "") for text in said] == [
        f"{tmp_path / 'run'}: the saved configuration is without trainer.callbacks[0] (Quiet is defined in a function)"
        "; model.grader (Half is defined in a function)"
    ]
    first, rest = (tmp_path / "run" / "config.yaml").read_text().split("\n", 1)
    assert first.endswith("  (without trainer.callbacks[0], model.grader)")
    assert yaml.safe_load(rest)["model"]["max_answer_tokens"] == 4
    with pytest.raises(
        ConfigError, match=r"it could not hold grader \(.*Half is defined in a function\): give grader="
    ):
        SEALModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Logs(SEALCallback):
    """Logs, and remembers what it sees."""

    def __init__(self):
        self.settings, self.seen = {}, []

    def on_run_begin(self, trainer, module):
        self.settings = dict(trainer.run_settings)

    def on_e_step_end(self, trainer, module, *, rollouts, groups, kept):
        self.log("mine/round", float(trainer.current_epoch))
        module.log("mine/same", 2.0)

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items() if "mine" in name})


def test_what_a_callback_logs_in_the_e_step_is_monitored(tmp_path):
    logs, best = Logs(), ModelCheckpoint(tmp_path / "best", monitor="mine/round", mode="max")
    selection = CheckpointSelection(monitor="mine/round")
    trainer, module, data = parts(
        tmp_path / "run", rounds=4, callbacks=[logs, best, selection, EarlyStopping("mine/same", patience=1)]
    )
    trainer.fit(module, datamodule=data)
    assert logs.seen == [{"mine/round": 0.0, "mine/same": 2.0}, {"mine/round": 1.0, "mine/same": 2.0}]
    assert best.best_model_score == 1.0 and selection.best == 1.0
    assert logs.settings["model"]["inner_loop"]["rank"] == 2
    assert logs.settings["checkpoint"]["init_args"]["monitor"] == "mine/round"


# -- refused before any work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"datamodule": None},
            "trainer.fit: expected a SEALDataModule, got none: call trainer.fit(module, datamodule=",
        ),
        ({"datamodule": None, "train_dataloaders": [1]}, "trainer.fit: expected a SEALDataModule, got loaders: SEAL"),
        ({"val_dataloaders": [1]}, "trainer.fit: expected a SEALDataModule, got loaders: SEAL reads contexts, give"),
        ({"datamodule": pl.LightningDataModule()}, "trainer.fit: expected a SEALDataModule, got a LightningDataModule"),
        ({"datamodule": SEALDataModule}, "trainer.fit: expected a SEALDataModule, got SEALDataModule: call"),
        (
            {"model": pl.LightningModule()},
            "trainer.fit: expected a SEALModule, got a LightningModule: call trainer.fit",
        ),
        ({"model": None}, "trainer.fit: expected a SEALModule, got none: call trainer.fit(module, datamodule=SEALData"),
        ({"datamodule": SEALDataModule()}, "data.train is not set: fit needs it"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch, change, said):
    monkeypatch.setattr("seal_lightning.fit.module.load_model", lambda source: pytest.fail("the model was loaded"))
    trainer, module, data = parts(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        trainer.fit(**{"model": module, "datamodule": data, **change})
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_filter_that_was_taken_away_is_missed(tmp_path):
    trainer, module, data = parts(tmp_path)
    trainer.callbacks.clear()
    with pytest.raises(ConfigError, match="filter: expected one filter among the callbacks, got none: add seal_light"):
        trainer.fit(module, data)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_another_trainer_is_told_which_to_use(tmp_path, command):
    _, module, data = parts(tmp_path)
    plain = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(ConfigError) as caught:
        getattr(plain, command)(module, datamodule=data)
    assert str(caught.value) == (
        "trainer: expected a seal_lightning.SEALTrainer, got lightning.Trainer: SEAL's rounds need its loop, and it "
        "takes the same options"
    )
    assert module.tuned is None


# -- the same objects again, and elsewhere -----------------------------------------------------------------------------


def test_fit_again_goes_on_and_a_thread_will_do(tmp_path):
    failed: list[BaseException] = []

    def work():
        try:
            trainer, module, data = parts(tmp_path / "run")
            trainer.fit(module, data)
            trainer.fit(module, data)
            assert module.rounds_done == 1
            trainer.fit_loop.max_epochs = 2
            trainer.fit(module, data)
            assert module.rounds_done == 2
            trainer.validate(verbose=False)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
    assert "| edits " in (tmp_path / "run" / "validation.md").read_text()


# -- load_from_checkpoint ----------------------------------------------------------------------------------------------


def test_a_checkpoint_brings_settings_and_policy(fitted, tmp_path):
    run, _, module, data = fitted
    path = run / "checkpoints" / "last.ckpt"
    loaded = SEALModule.load_from_checkpoint(path)
    assert loaded.policy.digest() == module.policy.digest() and loaded.rounds_done == 1
    assert (loaded.e_step.inner_loop, loaded.e_step.plan, loaded.tuning) == (
        module.e_step.inner_loop,
        module.e_step.plan,
        module.tuning,
    )
    assert loaded.e_step.sampler.max_new_tokens == 8
    other = SEALModule.load_from_checkpoint(path, seed=5, grader=Contains(), inner_loop=InnerLoop(rank=3))
    assert (other.seed, other.e_step.inner_loop.rank, type(other.e_step.grader)) == (5, 3, Contains)
    trainer, _, _ = parts(tmp_path / "new")
    assert set(trainer.test(loaded, data, verbose=False)[0]) == {"test/base", "test/passage", "test/edits"}
    with pytest.raises(ModelError, match=r"does not fit model\.tuning"):
        SEALModule.load_from_checkpoint(path, tuning=PolicyTuning(rank=3))
    with pytest.raises(ConfigError, match="there is no such checkpoint"):
        SEALModule.load_from_checkpoint(tmp_path / "none.ckpt")


CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nfrom seal_lightning import Recall as Theirs\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grader": {"class_path": "their_code.Theirs"}}, "model.grader: class_path their_code.Theirs names code"),
        ({"source": {"name": "/etc"}}, "model.source.name: /etc names a path on this machine"),
        ({"source": {"name": "random/llama", "trust_remote_code": True}}, "model.source.trust_remote_code: true runs"),
    ],
)
def test_a_checkpoint_may_not_choose_code(fitted, tmp_path, monkeypatch, settings, said):
    (tmp_path / "their_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = torch.load(fitted[0] / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["seal"]["settings"]["model"] |= settings
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    with pytest.raises(ConfigError) as caught:
        SEALModule.load_from_checkpoint(tmp_path / "theirs.ckpt")
    assert said in str(caught.value) and "or trust_checkpoint=True if you trust whoever made it" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    if "grader" in settings:
        SEALModule.load_from_checkpoint(tmp_path / "theirs.ckpt", grader="recall")
        assert not (tmp_path / "ran").exists()
        SEALModule.load_from_checkpoint(tmp_path / "theirs.ckpt", trust_checkpoint=True)
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("left_out", ["abc", [1, 2], 7, None])
def test_what_a_checkpoint_says_it_lacks_may_be_anything(fitted, tmp_path, left_out):
    checkpoint = torch.load(fitted[0] / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["seal"]["settings"] |= {"left_out": left_out, "model": {"source": "/etc/passwd"}}
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    with pytest.raises(ConfigError, match=r"model\.source: /etc/passwd names code"):
        SEALModule.load_from_checkpoint(tmp_path / "theirs.ckpt")


# -- a module of one's own, and the working folder ---------------------------------------------------------------------

OWN = """\
from seal_lightning import SEALModule


class Own(SEALModule):
    def __init__(self, greeting: str = "here is", **options) -> None:
        super().__init__(**options)
        self.greeting = greeting

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        print(f"{self.greeting} round {self.current_epoch + 1}")


class Other:
    pass
"""


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """A working folder with a module, where the command finds it and this process otherwise does not."""
    (tmp_path / "own_module_of_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    sys.modules.pop("own_module_of_test", None)


def test_a_module_of_ones_own_by_class_path(working_folder, fitted, capfd):
    (working_folder / "own.yaml").write_text(
        "model: {class_path: own_module_of_test.Own, init_args: {greeting: now comes, inner_loop: {rank: 3}}}\n"
    )
    run = ["--config", str(fitted[0] / "config.yaml"), "--trainer.default_root_dir", "run", "--data.validation", "null"]
    assert main(["fit", *run, "--config", "own.yaml", "--model.inner_loop.epochs", "2"]) == 0, capfd.readouterr().err
    assert "now comes round 1" in capfd.readouterr().out
    saved = yaml.safe_load(Path("run/config.yaml").read_text())["model"]
    assert saved["class_path"] == "own_module_of_test.Own"
    assert saved["init_args"]["greeting"] == "now comes"
    assert (saved["init_args"]["inner_loop"]["rank"], saved["init_args"]["inner_loop"]["epochs"]) == (3, 2)
    assert main(["fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert "now comes round 2" in capfd.readouterr().out
    again = ["fit", "--config", "run/config.yaml", "--ckpt_path", "last"]
    assert main([*again, "--model.greeting", "x"]) == 2
    assert 'model.greeting: was "now comes", is "x"' in capfd.readouterr().err
    assert main([*again, "--model", "SEALModule", "--print_config"]) == 2  # greeting is no option of it
    assert main(["report", "run"]) == 0
    Path("note.txt").write_text("Dry Ferry lies on the Gorn.")
    assert main(["adapt", "note.txt", "--policy", "run", "--output", "out", "--dry_run"]) == 0, capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model own_module_of_test.Nope", "--model: class_path own_module_of_test.Nope cannot be used: module "),
        ("--model no_such.Thing", "--model: class_path no_such.Thing cannot be used: No module named 'no_such'"),
        (
            "--model=own_module_of_test.Other",
            "--model: expected a class below seal_lightning.SEALModule, got own_modul",
        ),
        (
            "--model own_module_of_test.Own --model.greetin x",
            "--model.greetin: unknown option; did you mean --model.gre",
        ),
        ("--model Nope", "--model: expected a class_path such as my_module.MyModule, got 'Nope': add its module"),
    ],
)
def test_mistakes_with_a_module_of_ones_own(working_folder, capfd, options, said):
    assert main(["fit", *options.split()]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"seal: {said}")


def test_a_grader_that_cannot_be_imported_is_no_name(working_folder, capfd):
    """The parser alone takes it for the short name of one."""
    Path("broken_module_of_test.py").write_text("class Half(:\n")
    debug = ["fit", "--config", "debug/random", "--model.grader"]
    assert main([*debug, "broken_module_of_test.Half"]) == 2
    assert main([*debug, "own_module_of_test.Haf"]) == 2
    assert capfd.readouterr().err.splitlines() == [
        "seal: --model.grader: class_path broken_module_of_test.Half cannot be used: invalid syntax "
        "(broken_module_of_test.py, line 1)",
        "seal: --model.grader: class_path own_module_of_test.Haf cannot be used: module 'own_module_of_test' has no "
        "attribute 'Haf'",
    ]


def test_print_config_keeps_the_class(working_folder, capfd):
    command = ["fit", "--model", "own_module_of_test.Own", "--model.init_args.greeting", "hi", "--print_config"]
    assert main(command) == 0
    printed = yaml.safe_load(capfd.readouterr().out)["model"]
    assert (printed["class_path"], printed["init_args"]["greeting"]) == ("own_module_of_test.Own", "hi")


def test_modules_of_the_working_folder_come_last_and_only_where_they_are_named(working_folder):
    before = list(sys.path)
    find_modules_here(["fit", "--data.train", "passages.jsonl", "--model.grader", "contains"], [])
    assert sys.path == before
    find_modules_here([], [("a.yaml", {"trainer": {"callbacks": [{"class_path": "own_module_of_test.Own"}]}})])
    assert sys.path == [*before, str(working_folder)]
    find_modules_here(["--model", "own_module_of_test.Own"], [])
    assert sys.path == [*before, str(working_folder)]


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_package_has_its_names_without_importing_them():
    program = (
        "import sys, seal_lightning; print('torch' in sys.modules, 'lightning' in sys.modules, "
        "{'SEALModule', 'SEALTrainer', 'callbacks'} - {*dir(seal_lightning)})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False False {'callbacks'}\n"
    for name in seal_lightning.__all__:
        assert getattr(seal_lightning, name) is not None
    assert seal_lightning.SEALModule is SEALModule
    with pytest.raises(AttributeError, match="module 'seal_lightning' has no attribute 'Nothing'"):
        seal_lightning.Nothing  # noqa: B018
    assert {*seal_lightning.__all__} == {*seal_lightning._homes(), "__version__"}


def test_what_ones_own_classes_derive_from_is_public():
    """A generator's bases are beside it, in `seal_lightning.generator`."""
    public = [getattr(seal_lightning, name) for name in seal_lightning.__all__]
    ours = [kind for kind in Remembers.__subclasses__() if kind.__module__.startswith("seal_lightning.")]
    bases = {kind for kind in ours if inspect.isabstract(kind) and ".generator." not in kind.__module__}
    assert {"Sampler", "InnerObjective", "MStepObjective"} <= {kind.__name__ for kind in bases}
    assert bases - {kind for kind in public if isinstance(kind, type)} == set()


def test_a_fit_that_comes_to_nothing_says_so(tmp_path, caplog):
    trainer, module, data = parts(tmp_path / "run", callbacks=[CheckpointSelection()])
    trainer.fit(module, datamodule=data)
    words = [line for line in caplog.messages if "no round beat the untrained policy (val/edits 0.000)" in line]
    assert len(words) == 1
    assert words[0].startswith(f"{tmp_path / 'run'}: no round beat")
    assert words[0].endswith("; nothing was exported as the best policy")
