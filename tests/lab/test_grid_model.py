"""The grid model as it is shipped, and SEAL learning with it: small, with a fixed seed and a threshold far below."""

from pathlib import Path

import pytest
import torch

from seal_lightning.cli import main
from seal_lightning.evaluation import evaluation_means
from seal_lightning.journal import read_validations
from seal_lightning.lab.grids.corpus import SEAMS, GridCorpus
from seal_lightning.lab.grids.pretrain import solved
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.model import SHIPPED, ModelSource, load_model

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "arc" / "synthetic_lab.yaml"
SMALL = {
    "--trainer.max_epochs": 1,
    "--trainer.logger": "false",
    "--data.train.count": 5,
    "--data.validation.count": 8,
    "--model.evaluation.passage_only": "false",
    "--model.evaluation.written": "false",
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


@pytest.mark.slow
def test_one_round_of_seal_chooses_better_training(tmp_path):
    options = [str(part) for pair in SMALL.items() for part in pair]
    assert main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path / "run"), *options]) == 0
    before, after = (evaluation_means(rollouts) for rollouts in read_validations(tmp_path / "run").values())
    assert after["base"] == 0  # it learns to choose its training, not to solve puzzles at sight
    assert after["edits"] - before["edits"] > 0.15
