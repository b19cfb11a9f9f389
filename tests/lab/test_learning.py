"""SEAL learns: the whole loop in the lab, small, with a fixed seed and a threshold far below the usual gain."""

from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import evaluation_means

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
SMALL = {
    "--trainer.max_epochs": 1,
    "--trainer.logger": "false",
    "--data.passages": 6,
    "--data.held_out": 6,
    "--data.seed": 1,
    "--model.seed": 1,
    "--model.e_step.edits": 6,
    "--filter.k": 1,
    "--model.m_step.epochs": 12,
    "--model.evaluation.edits": 1,
    "--model.evaluation.passage_only": "false",
    "--model.evaluation.written": "false",
    "--progress.bars": "false",
}


@pytest.mark.slow
def test_one_round_of_seal_makes_a_better_self_editor(tmp_path):
    options = [str(part) for pair in SMALL.items() for part in pair]
    assert main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path / "run"), *options]) == 0
    before, after = (evaluation_means(rollouts) for rollouts in read_validations(tmp_path / "run").values())
    assert before["base"] < 0.15 and after["base"] < 0.2  # it learns to write edits, not the answers
    assert after["edits"] - before["edits"] > 0.15
