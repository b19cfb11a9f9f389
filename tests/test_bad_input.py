"""Every mistake a user can make is one line on stderr with the option or file in it, and an exit code; no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fault_injection import Launch

from seal_lightning.cli import main
from seal_lightning.models.random_models import build_tiny
from seal_lightning.sampling import Sample, Sampler

ROOT = Path(__file__).resolve().parent.parent
FIT = ["fit", "--config", "configs/debug/random.yaml", "--trainer.max_epochs", "1"]
FILES = {
    "broken.json": "[{,",
    "blank.json": json.dumps([{"title": "t", "passage": " ", "queries": [{"question": "q", "answers": ["a"]}]}]),
    "no-queries.json": json.dumps([{"title": "t", "passage": "A passage."}]),
    "no-rows.json": "[]",
    "long.json": json.dumps(
        [{"title": "Long", "passage": "word " * 500, "queries": [{"question": "q", "answers": ["a"]}]}]
    ),
    "broken.yaml": "trainer:\n  max_epochs: [1\nmodel: {",
    "twice.yaml": "model:\n  seed: 1\nmodel:\n  max_answer_tokens: 3\n",
    "list.yaml": "- trainer\n",
    "misspelt.yaml": "model:\n  inner_loop:\n    learning_rat: 1\n",
    "wrong-type.yaml": "trainer:\n  max_epochs: two\n",
    "latin.yaml": b"trainer: {default_root_dir: caf\xe9}",
    "tabs.json": '{\n\t"trainer": {}}',
    "a-file": "in the way",
    "foreign.ckpt": "",
}


class Blank(Sampler):
    """Writes white space only."""

    def sample(self, policy, requests, *, on_done=lambda count: None):
        return [Sample(" \n\t", 1, 1) for _ in requests]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with mistakes in them, and copies of a model that each lack something."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    torch.save({"state_dict": {}}, folder / "foreign.ckpt")
    model, tokenizer = build_tiny("llama", max_positions=512)

    def save(name, *, without=()):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        for path in (folder / name).iterdir():
            if path.name.startswith(without):
                path.unlink()

    save("whole")
    save("no-weights", without=("model.safetensors",))
    save("no-config", without=("config.json",))
    save("no-tokenizer", without=("tokenizer",))
    save("cut", without=("model.safetensors",))
    (folder / "cut" / "model.safetensors").write_bytes(b"cut off")
    save("holes")
    _drop_a_weight(folder / "holes" / "model.safetensors")
    save("image")
    (folder / "image" / "config.json").write_text('{"model_type": "vit"}')
    save("no-pad")
    _edit(folder / "no-pad" / "tokenizer_config.json", pad_token=None)
    return folder


def _drop_a_weight(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def seal(monkeypatch, capfd, tmp_path, folder):
    """Run `seal` here; returns exit code, stdout and stderr. `{bad}` in an argument is the folder with the mistakes."""
    monkeypatch.chdir(ROOT)

    def run(*args):
        command = [str(arg).replace("{bad}", str(folder)) for arg in args]
        if not any("default_root_dir" in arg for arg in command) and command[0] in ("fit", "test", "predict"):
            command += ["--trainer.default_root_dir", str(tmp_path / "run")]
        capfd.readouterr()
        return main(command), *capfd.readouterr()

    return run


BAD = {
    # the command and its options
    "unknown command": (["train"], "unknown command 'train'", "quickstart, sweep, grade, replay, report, predict"),
    "unknown option": ([*FIT, "--nonsense", "1"], "--nonsense: unknown option"),
    "misspelt option": ([*FIT, "--trainer.max_epoch", "1"], "did you mean --trainer.max_epochs?"),
    "prefix of an option": ([*FIT, "--model.inner_loop.ran", "8"], "did you mean --model.inner_loop.rank?"),
    "misspelt option of a class": ([*FIT, "--filter.kk", "2"], "--filter.kk:", "did you mean --filter.k?"),
    "misspelt in a file": ([*FIT, "--config", "{bad}/misspelt.yaml"], "learning_rat in ", "misspelt.yaml", "did you m"),
    "option of Lightning's methods": (["test", "--verbose", "true"], "--verbose: unknown option"),
    "wrong type": ([*FIT, "--trainer.max_epochs", "two"], "max_epochs: expected a whole number or null, got 'two'"),
    "wrong type in a file": ([*FIT, "--config", "{bad}/wrong-type.yaml"], "--trainer.max_epochs"),
    "wrong type of a class": ([*FIT, "--filter.k", "x"], "--filter.k: expected a whole number, got 'x'"),
    "wrong choice": ([*FIT, "--model.tuning.method", "all"], "--model.tuning.method: expected lora or full, got 'all'"),
    "no value": ([*FIT, "--model.seed"], "--model.seed: expected a value"),
    "a stray word": ([*FIT, "model.seed=1"], "unexpected argument 'model.seed=1'", "--trainer.max_epochs 2"),
    "a stray word of another command": (["replay", "a", "--nope.b", "c"], "--nope.b: unknown option"),
    "a switch with a value": (["adapt", "x", "--merged", "true"], "--merged takes no value, got true: write --merged"),
    "a switch before a file": (["adapt", "--dry_run", "false", "x"], "--dry_run takes no value, got false"),
    "a switch with =": (["continual", "--own_contexts=true"], "--own_contexts takes no value, got true"),
    "a switch of grade": (["grade", "x.jsonl", "--json", "yes"], "--json takes no value, got yes"),
    "a switch and a word": (["continual", "--resume", "later"], "--resume takes no value, got 'later'"),
    "unknown class": ([*FIT, "--model.sampler", "Nobody"], "--model.sampler:", "sampling.LocalSampler", "'Nobody'"),
    "class of another kind": (
        [*FIT, "--filter", "seal_lightning.callbacks.RolloutTable"],
        "--filter: expected a subclass of EditFilter, got 'seal_lightning.callbacks.RolloutTable'",
    ),
    "number not in a list": ([*FIT, "--trainer.precision", "11"], "precision: expected 64, 32, 16, ", "'11'"),
    "reader that is not there": (
        [*FIT, "--data.train", "{class_path: nope.X}"], "class_path nope.X cannot be used: No module named 'nope'\n",
    ),
    "objective that is not there": (
        [*FIT, "--model.m_step.objective", "{class_path: nope.X}"],
        "objective: class_path nope.X cannot be used: No module named 'nope'\n",
    ),
    "option of an objective": (
        [*FIT, "--model.inner_loop.objective",
         "{class_path: seal_lightning.inner_loop.objectives.Distillation, init_args: {temp: 2}}"],
        "inner_loop.objective.temp: unknown option; did you mean model.inner_loop.objective.temperature?",
    ),
    "option of a gate": (
        ["continual", "--countermeasures",
         '[{"class_path": "seal_lightning.commands.continual.Gate", "init_args": {"budget": "x"}}]'],
        "countermeasures.budget: expected a number or null",
    ),
    "class that is not there": ([*FIT, "--model.task", "no.such.Task"], "--model.task: class_path no.such.Task"),
    "negative rate": ([*FIT, "--model.inner_loop.learning_rate", "-1"], "inner_loop.learning_rate must be above 0"),
    "zero edits": ([*FIT, "--model.evaluation.edits", "0"], "evaluation.edits must be a whole number of at least 1"),
    "filter keeps none": ([*FIT, "--filter.k", "0"], "filter.k must be at least 1, got 0"),
    "unknown edit kind": ([*FIT, "--model.task.edit", "poem"], "model.task.edit must be one of implications", "'poem'"),
    "unknown accelerator": ([*FIT, "--trainer.accelerator", "abacus"], "accelerator=abacus"),
    "unknown strategy": ([*FIT, "--trainer.strategy", "luck"], "strategy=luck"),
    # config files
    "config missing": (["fit", "--config", "{bad}/none.yaml"], "--config", "none.yaml", "No such file"),
    "config is broken": (["fit", "--config", "{bad}/broken.yaml"], "broken.yaml, line 3: not valid YAML"),
    "config is a list": (["fit", "--config", "{bad}/list.yaml"], "list.yaml: expected options", "got a list"),
    "config has a key twice": (["fit", "--config", "{bad}/twice.yaml"], "twice.yaml, line 3: model appears twice"),
    "config is not UTF-8": (["fit", "--config", "{bad}/latin.yaml"], "latin.yaml: expected UTF-8"),
    "config with tabs": (["fit", "--config", "{bad}/tabs.json"], "tabs.json, line 2", "spaces, not tabs"),
    # data
    "no data": (["fit", "--model.source.name", "random/llama"], "data.train is not set: fit needs it"),
    "data missing": ([*FIT, "--data.train", "{bad}/none.jsonl"], "none.jsonl: expected a file"),
    "wrong JSON": ([*FIT, "--data.train", "{bad}/broken.json"], "broken.json, line 1: expected JSON"),
    "empty passage": ([*FIT, "--data.train", "{bad}/blank.json"], "blank.json, row 1", "passage"),
    "no queries": ([*FIT, "--data.train", "{bad}/no-queries.json"], "no-queries.json", "queries"),
    "no rows": ([*FIT, "--data.train", "{bad}/no-rows.json"], "no-rows.json: expected rows, got an empty list"),
    "limit of zero": ([*FIT, "--data.limit_train", "0"], "data.limit_train must be a whole number", "got 0"),
    "train and test overlap": ([*FIT, "--data.test", "configs/debug/passages.jsonl"], "data.test must not share"),
    "context too long": (
        [*FIT, "--data.train", "{bad}/long.json", "--model.source.name", "{bad}/whole"],
        "('Long')", "exceeds the model's window of 512",
    ),
    "test context too long": (
        ["test", *FIT[1:3], "--data.test", "{bad}/long.json", "--model.source.name", "{bad}/whole"],
        "exceeds the model's window of 512",
    ),
    "prompt too long": (
        ["predict", *FIT[1:3], "--data.predict", "{bad}/long.json", "--model.source.name", "{bad}/whole"],
        "exceeds the model's window of 512",
    ),
    # the model
    "unknown family": ([*FIT, "--model.source.name", "random/foo"], "random/foo: unknown family, expected"),
    "no such model": ([*FIT, "--model.source.name", "no/such"], "model.source.name=no/such: there is no such folder"),
    "no such folder": ([*FIT, "--model.source.name", "./no-such"], "model.source.name=./no-such: there is no such"),
    "no weights": ([*FIT, "--model.source.name", "{bad}/no-weights"], "holds no weights (*.safetensors)"),
    "no config": ([*FIT, "--model.source.name", "{bad}/no-config"], "holds no configuration (config.json)"),
    "no tokenizer": ([*FIT, "--model.source.name", "{bad}/no-tokenizer"], "holds no tokenizer"),
    "weights cut off": ([*FIT, "--model.source.name", "{bad}/cut"], "/cut: weights cannot be loaded"),
    "weights missing": ([*FIT, "--model.source.name", "{bad}/holes"], "1 weights are missing", "q_proj"),
    "no language model": ([*FIT, "--model.source.name", "{bad}/image"], "expected a causal language model, got vit"),
    "no chat template": (
        [*FIT, "--model.source.name", "{bad}/whole", "--model.source.chat", "true"], "model.source.chat=true",
    ),
    "unknown attention": ([*FIT, "--model.source.attention", "none"], "model.source.attention=none: cannot be used"),
    "unknown layers": ([*FIT, "--model.inner_loop.target_modules", "foo"], "inner_loop.target_modules", "q_proj"),
    # the run folder
    "folder below a file": ([*FIT, "--trainer.default_root_dir", "{bad}/a-file/run"], "default_root_dir=", "a-file"),
    "folder is a file": ([*FIT, "--trainer.default_root_dir", "{bad}/a-file"], "choose a folder you can write to"),
    "no such checkpoint": ([*FIT, "--ckpt_path", "{bad}/none.ckpt"], "--ckpt_path", "none.ckpt"),
    "no best checkpoint": ([*FIT, "--ckpt_path", "best"], "--ckpt_path best: there is no file"),
    "damaged checkpoint": ([*FIT, "--ckpt_path", "{bad}/a-file"], "a-file is damaged, or is not a checkpoint"),
    "checkpoint of another program": ([*FIT, "--ckpt_path", "{bad}/foreign.ckpt"], "or is not a checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_line_says_what_is_wrong(seal, name):
    args, *words = BAD[name]
    code, _, err = seal(*args)
    assert code == 2
    assert err.startswith("seal: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert "Traceback" not in err and len(err) < 500, err


@pytest.mark.parametrize("args", [["train"], ["fit", "--config", "no/such.yaml"]])
def test_early_mistakes_answer_without_torch(args):
    script = f"import sys; from seal_lightning.cli import main; code = main({args}); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", f"{script}; sys.exit(code)"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("seal: ") and done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(seal):
    code, _, err = seal(*FIT, "--data.train", "{bad}/none.jsonl", "--log_level", "debug")
    assert code == 2 and "Traceback" in err
    assert err.splitlines()[-1].startswith("seal: ")


def test_a_tokenizer_without_a_pad_token_is_fine(seal):
    code, _, err = seal(*FIT, "--model.source.name", "{bad}/no-pad", "--trainer.limit_val_batches", "0")
    assert (code, err) == (0, "")


def test_a_run_whose_edits_are_all_blank_goes_on(seal, tmp_path):
    code, out, err = seal(*FIT, "--model.sampler", f"{__name__}.Blank")
    assert (code, err) == (0, "")
    assert "100% rejected, 0 edits kept" in out
    names, *rows = [line.split(",") for line in next((tmp_path / "run").rglob("metrics.csv")).read_text().splitlines()]
    logged = {name: row[column] for row in rows for column, name in enumerate(names) if row[column]}
    assert (logged["e_step/kept"], logged["e_step/rejected_frac"]) == ("0.0", "1.0")
    assert {"reward/mean", "reward/best", "val/base", "val/passage", "val/edits"} <= logged.keys()


def test_another_configuration_in_the_run_folder(seal, tmp_path):
    assert seal(*FIT)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "journal").iterdir()}
    code, _, err = seal(*FIT, "--model.inner_loop.epochs", "1")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"seal: {tmp_path / 'run' / 'run.json'}: written with other settings (")
    assert "inner_loop.epochs" in err and "default_root_dir" in err
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "journal").iterdir()} == before


@pytest.fixture
def full_disk(seal, tmp_path):
    """The exit code and the last line of `seal` in a process in which no file may grow beyond `limit` bytes."""

    def run(limit, *args):
        command = [*args, "--trainer.default_root_dir", str(tmp_path / "run")]
        launch = Launch(command, ranks=1, log=tmp_path / "full-disk.log", largest=limit)
        (code,) = launch.wait()
        said = launch.log.read_text()
        assert "Traceback" not in said and said.count("seal: ") == 1, said
        return code, said.splitlines()[-1]

    return run


def test_no_room_for_the_journal(full_disk, tmp_path):
    code, err = full_disk(20_000, *FIT)
    assert code == 1 and err.startswith("seal: journal ") and "make room and resume" in err
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run" / "journal").iterdir()}
    assert "validation-000.rank-0.jsonl" in kept and (tmp_path / "run" / "run.json").exists()
    assert all(content.endswith(b"\n") for content in kept.values())  # whole units


def test_no_room_for_the_stamp_of_a_run(full_disk, tmp_path):
    code, err = full_disk(4_000, *FIT)
    assert code == 1 and err.startswith(f"seal: {tmp_path / 'run' / 'run.json'}: File too large")
    assert not (tmp_path / "run" / "run.json").exists()


def test_no_room_for_a_checkpoint(seal, full_disk, tmp_path):
    assert seal(*FIT)[0] == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    two_rounds = [*FIT[:-1], "2", "--ckpt_path", "last"]
    code, err = full_disk(40_000, *two_rounds)
    assert code == 1 and "--ckpt_path last" in err
    assert err.startswith(f"seal: {checkpoints / 'last.ckpt'}: cannot be written")
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
    assert seal(*two_rounds)[0] == 0
