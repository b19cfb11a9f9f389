"""Loggers that wait until a run begins start nothing, miss nothing, and are themselves again afterwards."""

import os

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from seal_lightning.fit.loggers import Loggers


def test_waiting_loggers_write_nothing_and_miss_nothing(tmp_path):
    board, table = TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="csv")
    waiting = Loggers([board, table])
    for logger in (board, table):  # as Lightning does before its checks
        assert not hasattr(logger, "experiment")
        logger.log_hyperparams({"seed": 3})
        logger.save()
        assert logger.version == 0
    assert isinstance(board, TensorBoardLogger)
    assert list(tmp_path.iterdir()) == []
    waiting.begin()
    assert (type(board).__name__, type(table).__name__) == ("TensorBoardLogger", "CSVLogger")
    assert (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text() == "seed: 3\n"
    assert (tmp_path / "board" / "version_0" / "hparams.yaml").read_text() == "seed: 3\n"
    assert any("tfevents" in name for name in os.listdir(tmp_path / "board" / "version_0"))
    waiting.end()
    assert (type(board), type(table)) == (TensorBoardLogger, CSVLogger)
    assert "_lost" not in vars(board)


def test_loggers_of_a_run_that_never_began_are_as_before(tmp_path):
    table = CSVLogger(tmp_path, name="csv")
    for _ in range(2):
        waiting = Loggers([table])
        assert not hasattr(table, "experiment")
        waiting.end()
    assert type(table) is CSVLogger and "_calls" not in vars(table)
    assert list(tmp_path.iterdir()) == []


def test_a_callback_that_asks_for_the_experiment_gets_it(tmp_path):
    table = CSVLogger(tmp_path, name="csv")
    waiting = Loggers([table])
    assert not hasattr(table, "experiment")  # Lightning
    table.experiment.log_metrics({"a": 1.0}, step=0)  # a callback's setup
    waiting.begin()
    table.save()
    assert (tmp_path / "csv" / "version_0" / "metrics.csv").read_text() == "a,step\n1.0,0\n"


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger, MLFlowLogger, WandbLogger, DummyLogger])
def test_every_kind_of_logger_can_wait(kind):
    logger = kind.__new__(kind)
    Loggers([logger]).end()
    assert type(logger) is kind
