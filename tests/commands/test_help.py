"""`seal COMMAND --help`: SEAL's options first, Lightning's last, and at once, in the words of the parsers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.commands import names
from seal_lightning.commands.names import COMMANDS, GROUPS
from seal_lightning.options.help_order import LIGHTNING, RUN

ROOT = Path(__file__).resolve().parents[2]
OF_LIGHTNING = ("fit", "validate", "test", "predict")


def shown(capsys, *args):
    assert main([*args]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def headings(text):
    return [line[:-1] for line in text.splitlines() if re.fullmatch(r"\S.*:", line)]


def test_the_file_is_what_the_parsers_say():
    done = subprocess.run([sys.executable, "docs/help_texts.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_needs_no_library():
    code = "import sys; from seal_lightning.cli import main; main(['fit', '--help'])\n"
    code += "assert not {'torch', 'lightning', 'transformers', 'jsonargparse', 'yaml'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: seal fit [--config FILE ...]")


@pytest.mark.parametrize("command", OF_LIGHTNING)
def test_ours_come_first_and_lightnings_last(capsys, command):
    out = shown(capsys, command, "--help")
    found = headings(out)
    assert found[:3] == ["options", "A self-adapting language model", "The base model"]
    assert found[-2:] == [RUN, LIGHTNING]
    run, lightning = out.partition(f"\n{RUN}:")[2].split(f"\n{LIGHTNING}:")
    assert "--trainer.max_epochs" in run and "--trainer.default_root_dir" in run and "--trainer.executor" in run
    assert "--trainer.precision" in lightning and "--seed_everything" in lightning
    assert "--trainer" not in out.partition(f"\n{RUN}:")[0]
    assert "--ckpt_path" in out.partition("A self-adapting language model:")[0]


@pytest.mark.parametrize("width", ["60", "80", "140"])
def test_it_is_the_live_text_at_any_width(capsys, monkeypatch, width):
    """A second option beside --help asks the parser itself; `known subclasses` are those that are imported by then."""
    monkeypatch.setenv("COLUMNS", width)
    live = re.sub(r"known\s+subclasses:[^)]*", "", shown(capsys, "predict", "--help", "--log_level", "warning"))
    at_once = re.sub(r"known\s+subclasses:[^)]*", "", shown(capsys, "predict", "--help"))
    assert at_once.split() == live.split()
    assert [line for line in at_once.splitlines() if "default_root_dir" in line] == [
        line for line in live.splitlines() if "default_root_dir" in line
    ]


def test_other_versions_are_asked_themselves(monkeypatch):
    assert names.help_text("fit") is not None
    monkeypatch.setattr(names, "versions", lambda: {"lightning": "9"})
    assert names.help_text("fit") is None


def test_every_command_with_a_model_has_its_text():
    found = json.loads((ROOT / "seal_lightning" / "commands" / "help.json").read_text())
    assert [*found["commands"]] == [command for command, row in COMMANDS.items() if not row.is_light]


def test_the_help_of_a_class(capsys):
    out = shown(capsys, "fit", "--model.task.help", "Knowledge")
    assert "--model.task.edit" in out and "--model.task.title_prefix" in out


def test_every_command_is_in_one_group(capsys):
    assert {row.group for row in COMMANDS.values()} == set(GROUPS)
    out = shown(capsys, "--help")
    assert headings(out)[: len(GROUPS)] == [*GROUPS]
    assert "\nadapters, with or without a fit:\n  adapt       documents in, adapters out" in out
