"""The examples of docs/ run as they stand: every Python block is one module, and every YAML block fits one run."""

import re
from pathlib import Path

import pytest
import yaml

from seal_lightning.cli import main

ROOT = Path(__file__).resolve().parent.parent
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", EXTENDING, flags=re.S)


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
