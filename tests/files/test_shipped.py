"""What comes with the package is found by name, wherever a command is started; what lies there comes first."""

from pathlib import Path

import pytest
import yaml

from seal_lightning.cli import main
from seal_lightning.data.detect import reader_for
from seal_lightning.endpoints.prices import find_price
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.shipped import ROOT, find_config, names, with_shipped_configs

LISTS = "(seal configs lists what comes with seal-lightning)"
ZERO = "seal_lightning.fit.strategies.ZeROStrategy"
SMOLLM2 = str(ROOT / "knowledge" / "smollm2.yaml")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test starts in a folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["knowledge/smollm2", "knowledge/smollm2.yaml", "configs/knowledge/smollm2.yaml", "configs/knowledge/smollm2"],
)
def test_a_name_with_and_without_its_ending(name):
    assert find_config(name) == SMOLLM2


def test_a_file_of_the_working_folder_comes_first(elsewhere):
    (elsewhere / "knowledge").mkdir()
    assert find_config("knowledge/smollm2") == SMOLLM2
    (elsewhere / "knowledge" / "smollm2").write_text("model: {seed: 3}")
    assert find_config("knowledge/smollm2") == "knowledge/smollm2"


def test_every_place_of_a_command_line():
    given = ["fit", "--config", "knowledge/smollm2", "--config=quickstart", "-c", "debug/random", "--x", "quickstart"]
    wanted = ["fit", "--config", SMOLLM2, f"--config={ROOT / 'quickstart.yaml'}", "-c", f"{ROOT / 'debug/random.yaml'}"]
    assert with_shipped_configs(given) == [*wanted, "--x", "quickstart"]


def test_names_lead_to_their_files_and_to_nothing_else():
    assert {"quickstart", "knowledge/smollm2", "debug/random", "deepspeed/zero2", "adapt/lab"} <= {*names()}
    assert "prices" not in names() and all(Path(find_config(name)).is_file() for name in names())
    for outside in ("../pyproject.toml", "/etc/none.yaml", "__init__.py"):
        with pytest.raises(ConfigError, match=r"check the path \(seal configs lists what comes with seal-lightning\)$"):
            find_config(outside)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("knowledge/smolm2", f"did you mean adapt/smollm2, knowledge/smollm2 or study/smollm2? {LISTS}"),
        ("configs/knowledge/unsupervisd.yml", f"did you mean knowledge/unsupervised? {LISTS}"),
        ("smollm2", f"did you mean adapt/smollm2, knowledge/smollm2 or study/smollm2? {LISTS}"),
        ("runs/a/config.yaml", f"check the path {LISTS}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["fit", "adapt", "continual", "quickstart", "grade"])
def test_a_wrong_name_is_one_line_with_those_that_are_near(capsys, command, name, said):
    assert main([command, "--config", name]) == 2
    assert capsys.readouterr().err == f"seal: --config {name}: cannot be read (No such file or directory); {said}\n"


@pytest.mark.parametrize(
    ("command", "files", "option", "value"),
    [
        ("fit", ["debug/random", "deepspeed/zero2"], "trainer.strategy.class_path", ZERO),
        ("test", ["knowledge/smollm2.yaml"], "model.source.name", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("adapt", ["adapt/smollm2"], "model.source.name", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("continual", ["continual/lab"], "model.source.name", "lab"),
    ],
)  # fmt: skip
def test_commands_read_them(capsys, command, files, option, value):
    options = [part for name in files for part in ("--config", name)]
    assert main([command, *options, "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    for part in option.split("."):
        found = found[part]
    assert found == value


def test_data_and_prices_beside_them_are_found_too():
    assert reader_for("configs/debug/towns.jsonl").read()[0].id == "a-road-through-the-northern-mountains-8ee8a16d"
    with pytest.raises(DataError, match=r"configs/debug/none.jsonl: expected a file or folder, got nothing there"):
        reader_for("configs/debug/none.jsonl")
    price = find_price("configs/prices.yaml", "gpt-4.1-mini")
    assert price is not None and str(price.input) == "0.4"


def test_the_list_of_them(capsys):
    assert main(["configs"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    assert "knowledge/smollm2               SmolLM2-135M-Instruct on a laptop's CPU" in out
    assert main(["configs", "knowledge/smollm2"]) == 0
    assert capsys.readouterr().out == Path(SMOLLM2).read_text()
    assert main(["configs", "knowledge/smolm2"]) == 2
    near = "adapt/smollm2, knowledge/smollm2 or study/smollm2"
    said = f"nothing of that name comes with seal-lightning; did you mean {near}? {LISTS}"
    assert capsys.readouterr().err == f"seal: seal configs knowledge/smolm2: {said}\n"
