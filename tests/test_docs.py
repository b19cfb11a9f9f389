"""The examples of docs/ run as they stand: every Python block is one module, and every YAML block fits one run."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from seal_lightning.cli import main
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of
from seal_lightning.types import Rollout, TrainingSequence

ROOT = Path(__file__).resolve().parent.parent
EXTENDING, ARC = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("extending.md", "arc.md"))


def blocks(language, text=EXTENDING):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def commands(text):
    """The lines of shell blocks that begin with `seal`, as lists of arguments."""
    lines = "".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("seal ")]


@pytest.fixture
def my_seal(tmp_path, monkeypatch):
    (tmp_path / "my_seal.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    "block", blocks("yaml"), ids=lambda block: re.findall(r"my_seal\.(\w+)|$", block)[0] or "prompt"
)
def test_each_extension_runs(tmp_path, monkeypatch, my_seal, capfd, block):
    path = tmp_path / "extension.yaml"
    path.write_text(block, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    options = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    small = ["--trainer.validate_first", "false", "--data.validation", "null"]
    code = main(["fit", "--config", "configs/debug/random.yaml", "--config", str(path), *options, *small])
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "Announce" not in block or "kept 4 of 16 rollouts" in output.out
    wanted = yaml.safe_load(block)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (group,) = wanted
    if class_path := re.search(r"my_seal\.\w+", block):
        assert class_path.group() in yaml.safe_dump(saved[group])


def test_the_examples_do_what_they_say(my_seal):
    import my_seal as examples

    assert examples.StartsRight().grade(question="?", golds=["Ada"], answer="ada Merrow") == 1.0
    france, _peru = examples.Capitals().read()
    assert examples.Headlines().parse(" ", france).reason == "no headline"
    assert examples.Headlines().parse("Paris!", france).status == "ok"
    edit = examples.Readings().parse('{"epochs":3}', france)
    assert (edit.reason, edit.applied.epochs) == ("", 3)
    assert examples.Readings().parse('{"epochs": 12}', france).reason == "no number of readings"
    assert len(examples.Readings().query_prompts(france.queries[0], france)) == 2
    assert examples.Readings().read_answers(["Lima", "Paris", "Paris"], france.queries[0], france) == "Paris"
    rollout = Rollout(0, "France", 0, 0, 0, "", edit.text, "ok", asked=edit.asked)
    assert examples.Readings().tables({0: [], 1: [rollout, replace(rollout, asked={})]}) == "readings: {3: 1}"


# -- docs/arc.md -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands(ARC), ids=" ".join)
def test_commands_about_arc_parse(monkeypatch, capfd, command):
    monkeypatch.chdir(ROOT)
    assert main([*command, "--print_config"]) == 0
    assert capfd.readouterr().err == ""


def test_the_task_of_ones_own_for_arc(tmp_path, monkeypatch, capfd):
    (module,) = blocks("python", ARC)
    (tmp_path / "my_arc.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    from my_arc import Backwards

    turns = tuple(Pair(((left, right),), ((right, left),)) for left, right in ((1, 2), (3, 4)))
    edit = Backwards(max_puzzles=2).parse(blocks("json", ARC)[0], context_of(Puzzle(turns, ()), id="turns"))
    assert edit.reason == ""
    assert edit.training_sequences[2:] == (
        TrainingSequence("12", prompt="Input:\n43\nOutput:\n34\n\nInput:\n21\nOutput:\n"),
        TrainingSequence("34", prompt="Input:\n21\nOutput:\n12\n\nInput:\n43\nOutput:\n"),
    )
    monkeypatch.chdir(ROOT)
    for number, block in enumerate(blocks("yaml", ARC)):
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
        overlay = str(tmp_path / f"{number}.yaml")
        code = main(["fit", "--config", "configs/arc/llama3.2-1b.yaml", "--config", overlay, "--print_config"])
        assert (code, capfd.readouterr().err) == (0, "")
