"""`seal quickstart`: what it shows, and what it says when something is wrong."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from samples import FAR_FORK

from seal_lightning.cli import main
from seal_lightning.commands import quickstart
from seal_lightning.errors import ConfigError
from seal_lightning.records.journal import Journal, read_validations

EDIT = replace(
    FAR_FORK,
    prompt="Study.\n\nTitle: T\nPassage: Far Fork sells [b]salt[/b].\n\nWhat follows:\n",
    text="[red]vague[/red]",
)


def write(run, *by_round):
    for number, rollouts in enumerate(by_round):
        Journal(run / "journal", f"validation-{number:03d}", stamp={"n": number}).append(0, rollouts)


def test_validations_and_the_last_row_are_read_from_a_run(tmp_path):
    write(tmp_path, [EDIT], [replace(EDIT, score=1.0), replace(EDIT, context_id="b", score=0.0)])
    assert {n: len(rollouts) for n, rollouts in read_validations(tmp_path).items()} == {0: 1, 1: 2}
    row = quickstart.last_row(tmp_path)
    assert (row.name, row.accuracy, row.contexts) == ("edits after round 1", 0.5, 2)


def test_edits_stand_side_by_side_with_their_answers_and_no_markup(tmp_path):
    contexts = {"a": 0.3, "b": 0.2, "c": 0.5}  # gains; a's is the median
    before = [replace(EDIT, context_id=name) for name in contexts]
    after = [
        replace(EDIT, context_id=name, score=0.5 + gain, text="full", scores=(1.0, 1.0), answers=("salt", "Barker"))
        for name, gain in contexts.items()
    ]
    write(tmp_path, before, after)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(quickstart.side_by_side(tmp_path))
    text = console.export_text()
    assert "A held-out passage: Far Fork sells [b]salt[/b]." in text
    assert "before training: 1 of 2 answers right" in text and "after training: 2 of 2 answers right" in text
    assert "[red]vague[/red]" in text and "full" in text
    assert "- Who leads it? Nobody" in text and "+ Who leads it? Barker" in text


def test_a_run_is_never_written_over_nor_shared_by_two_that_start_at_once(tmp_path):
    assert quickstart.new_folder(tmp_path / "runs" / "run") == tmp_path / "runs" / "run"
    (tmp_path / "runs" / "run-2").mkdir()
    assert quickstart.new_folder(tmp_path / "runs" / "run") == tmp_path / "runs" / "run-3"
    assert quickstart.new_folder(tmp_path / "runs" / "run") == tmp_path / "runs" / "run-4"  # taken, though still empty
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--run_dir .*file/run: a file is in its way; choose a folder"):
        quickstart.new_folder(tmp_path / "file" / "run")


def test_a_missing_config_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--config", "other.yaml"]) == 2
    said = "cannot be read (No such file or directory); check the path"
    assert capsys.readouterr().err.startswith(f"seal: --config other.yaml: {said}")
    assert main(["quickstart", "--config", str(tmp_path)]) == 2
    said = "no such file; leave --config out for the lab's own"
    assert capsys.readouterr().err == f"seal: --config {tmp_path}: {said}\n"


def test_help(capsys):
    assert main(["quickstart", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: seal quickstart [--config FILE] [--run_dir FOLDER]") and "--data.difficulty" in out


@pytest.mark.slow
def test_a_mistake_in_an_option_stops_both_runs(tmp_path, monkeypatch, capfd):
    assert main(["quickstart", "--run_dir", str(tmp_path / "run"), "--model.nonsense", "1"]) == 2
    err = capfd.readouterr().err
    assert "model.nonsense" in err and "Traceback" not in err
