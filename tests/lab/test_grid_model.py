"""The grid model as it is shipped: what it knows, and what test-time training makes of it."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from making.grid_corpus import SEAMS, GridCorpus
from making.grids import solved
from seal_lightning.cli import main
from seal_lightning.data import SyntheticArc
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.models.loading import SHIPPED, load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.records.journal import read_validations
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks.arc import ArcTask, GridMatch

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "arc" / "synthetic_lab.yaml"
SMALL = {
    "--trainer.max_epochs": 1,
    "--trainer.logger": "false",
    "--data.train.count": 1,
    "--data.validation.count": 1,
    "--model.e_step.edits": 2,
    "--model.evaluation.edits": 1,
    "--progress.bars": "false",
}


@pytest.fixture(scope="module")
def shipped():
    return load_model(ModelSource(name="lab-grids"))


def test_it_is_small_and_loads_in_float32(shipped):
    model, _, chat = shipped
    assert sum(path.stat().st_size for path in SHIPPED["lab-grids"].iterdir()) < 4_000_000
    assert model.dtype == torch.float32 and not chat


def test_its_tokenizer_is_the_one_of_the_corpus(shipped):
    assert shipped[1].get_vocab() == build_tokenizer(GridCorpus().texts(), pieces=SEAMS).get_vocab()


def test_it_copies_grids_and_turns_them_by_name(shipped):
    model, tokenizer, _ = shipped
    shares = [float(part.split()[1]) for part in solved(model, tokenizer, count=8).removeprefix("solved: ").split(", ")]
    assert len(shares) == 8 and min(shares) > 0.8


def test_its_configuration_runs_and_prints_every_row(tmp_path, capsys):
    options = [str(part) for pair in SMALL.items() for part in pair]
    assert main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path / "run"), *options]) == 0
    table = capsys.readouterr().out
    rows = ("in-context", "demonstrations alone", "self-edits before training", "self-edits after round 1",
            "fixed configuration")  # fmt: skip
    assert [row for row in rows if re.search(rf"^\| {row} +\| ", table, flags=re.M)] == [*rows]
    kinds = [rollout.kind for rollout in read_validations(tmp_path / "run")[0]]
    assert sorted(kinds) == ["edit", "passage", "written"]


def test_test_time_training_solves_what_the_model_does_not_solve_in_context(shipped):
    """The fixed configuration, found on training rules, on held-out ones."""
    model, tokenizer, chat = shipped
    data = yaml.safe_load(CONFIG.read_text())["data"]["validation"]["init_args"]
    contexts = SyntheticArc(**{**data, "count": 6}).read()
    task = ArcTask(max_puzzles=24, colour_permutations=0, example_permutations=0)
    inner_loop = InnerLoop(**yaml.safe_load(CONFIG.read_text())["model"]["inner_loop"])
    step = EStep(task, WrittenEdits(), inner_loop, GridMatch(), Reward(), Plan(1, 1), max_answer_tokens=16)
    rollouts = step.run(Policy(model.eval(), tokenizer, chat), contexts, round=0)
    assert [rollout.baseline for rollout in rollouts] == [0] * 6
    assert sum(rollout.score for rollout in rollouts) >= 2
