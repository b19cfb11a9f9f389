"""An option that takes a text takes it as it is given, whatever file has that name; settings are read from YAML."""

import json
from pathlib import Path

import pytest
import yaml

from seal_lightning.cli import main

FILES = {
    "list.json": '[{"title": "a", "context": "b"}]',
    "rows.jsonl": '{"a": 1}\n{"a": 2}\n',
    "squad.json": '{"version": "1.1", "data": []}',
    "text.json": '"other.json"',
    "notes.yaml": "Note: b\n",
    "words.txt": "just some words",
    "lines.txt": "one\ntwo\n",
    "pair.txt": "a: b",
    "number.txt": "5",
    "null.txt": "null",
    "empty.txt": "",
    "page.md": "# Title\n\nText.\n",
    "contains": "a prompt in a file of a grader's name",
    "5": "a file with the name of a number",
    "true": "and of a switch",
    "SealJson": "and of a class",
    "latin.csv": "passage\nCaf\xe9\n".encode("latin-1"),
    "table.parquet": b"PAR1\0\xff\xfe",
    "big.json": json.dumps([{"passage": "word " * 100}] * 1000),
}
OPTIONS = {  # of every kind: a text; a text or a class, at the top and within a class
    "trainer.default_root_dir": "trainer.default_root_dir",
    "model.source.name": "model.source.name",
    "model.grader": "model.grader",
    "model.task.edit": "model.task.init_args.edit",
    "data.train": "data.init_args.train",
}


def at(config, option):
    for part in option.split("."):
        config = config[part]
    return config


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """The configuration of `seal fit` with some options, in a folder with all of the files."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def run(*args):
        assert main(["fit", *args, "--print_config"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return yaml.safe_load(out)

    return run


@pytest.mark.parametrize("name", FILES)
def test_a_text_on_the_command_line(printed, name):
    config = printed(*(part for option in OPTIONS for part in (f"--{option}", name)))
    assert {option: at(config, place) for option, place in OPTIONS.items()} == dict.fromkeys(OPTIONS, name)


@pytest.mark.parametrize("name", FILES)
def test_a_text_in_a_config_file(printed, name):
    task = {"class_path": "Knowledge", "init_args": {"edit": name}}
    written = {"data": {"train": name, "test": name}, "model": {"grader": name, "task": task, "source": {"name": name}}}
    Path("mine.yaml").write_text(yaml.safe_dump(written))
    config = printed("--config", "mine.yaml")
    places = [*list(OPTIONS.values())[1:], "data.init_args.test"]
    assert [at(config, place) for place in places] == [name] * 5


def test_settings_of_a_class_are_read_from_their_file(printed):
    Path("grader.yaml").write_text("class_path: Calibrated\ninit_args: {threshold: 0.25}\n")
    assert printed("--model.grader", "grader.yaml")["model"]["grader"]["init_args"]["threshold"] == 0.25
    Path("mine.yaml").write_text("model: {grader: grader.yaml}")
    assert printed("--config", "mine.yaml")["model"]["grader"]["init_args"]["threshold"] == 0.25


@pytest.mark.parametrize("name", ["list.json", "words.txt", "notes.yaml", "5"])
@pytest.mark.parametrize(("command", "option"), [("continual", "data"), ("grade", "grader")])
def test_other_commands(printed, capsys, command, option, name):
    assert main([command, f"--{option}", name, "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)[option] == name
