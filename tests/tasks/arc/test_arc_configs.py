"""The configurations of ARC keep what they promise: edits that can be trained on, and room for what they allow."""

import re
from pathlib import Path

import pytest
import yaml

from seal_lightning.cli import main
from seal_lightning.data import ArcKit, SEALDataModule
from seal_lightning.tasks.arc import ArcLimits, ArcTask
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import ArcEdit, write_edit
from seal_lightning.tasks.arc.puzzles import puzzle_of

ROOT = Path(__file__).resolve().parents[3]
DEBUG = "configs/arc/debug.yaml"


def read(name):
    return yaml.safe_load((ROOT / "configs" / "arc" / f"{name}.yaml").read_text())


def task_of(model) -> ArcTask:
    options = dict(model["task"]["init_args"])
    if limits := options.pop("limits", None):
        options["limits"] = ArcLimits(**{name: tuple(values) for name, values in limits.items()})
    return ArcTask(**options)


def contexts_of(data):
    readers = {split: ArcKit(**data.pop(split)["init_args"]) for split in ("train", "validation")}
    module = SEALDataModule(**readers, **data)
    module.setup("fit")
    return module.train_contexts, module.validation_contexts


def most_tokens(text) -> int:
    """Where each cell, line end and word is a token, and a colon another; the space before a cell is part of it."""
    return len(re.sub("Input|Output", "#", text).replace(" ", ""))


@pytest.mark.parametrize("name", ["debug", "llama3.2-1b"])
def test_there_is_room_for_answers_and_training_puzzles(name):
    config = read(name)
    model, task = config["model"], task_of(config["model"])
    train, validation = contexts_of(config["data"])
    everything = ArcEdit(families=tuple(FAMILIES), loss="all", learning_rate=1e-4, epochs=1)
    for context in (*train, *validation):
        answers = [task.text.encode(pair.output) for pair in puzzle_of(context).tests]
        assert max(map(most_tokens, answers)) <= model["max_answer_tokens"]
        puzzles = task.parse(write_edit(everything), context).training_sequences
        assert max(most_tokens(one.prompt + one.text) + 1 for one in puzzles) <= model["inner_loop"]["max_length"]
    assert all(context.edits and not task.parse(context.edits[0], context).reason for context in validation)


def test_every_row_of_the_table(tmp_path, monkeypatch, capfd):
    """The whole of `configs/arc/debug.yaml` on random weights."""
    monkeypatch.chdir(ROOT)
    options = ["--model.source.name", "random/llama", "--model.sampler.max_new_tokens", "160"]  # a byte is a token
    options += ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", DEBUG, *options]) == 0, capfd.readouterr().err
    table = (tmp_path / "fit.md").read_text()
    rows = ["in-context", "demonstrations alone", "self-edits before training", "self-edits after round 1"]
    for name in (*rows, "fixed configuration"):
        assert re.search(rf"^\| {name} +\| 0\.000 .* \| 2 +\| [24] +\|$", table, flags=re.M), table
    assert "round 1 M-step: loss" in capfd.readouterr().out
