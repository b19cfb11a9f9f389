"""Names in `monitor=`: a misspelt one is refused before any work, unless someone else may log it."""

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from seal_lightning.callbacks import CheckpointSelection, ReSTEMFilter
from seal_lightning.errors import ConfigError
from seal_lightning.fit.monitored import check_monitors


@pytest.mark.parametrize(
    "callback, validated, said",
    [
        (
            EarlyStopping("val/edit"),
            True,
            "EarlyStopping: monitor='val/edit' is logged by nothing in this run: did you mean 'val/edits'?",
        ),
        (
            ModelCheckpoint(monitor="reward/men"),
            True,
            "ModelCheckpoint: monitor='reward/men' is logged by nothing in this run: did you mean 'reward/mean'?",
        ),
        (
            CheckpointSelection(monitor="val_edits"),
            False,
            "CheckpointSelection: monitor='val_edits' is logged by nothing in this run: did you mean 'val/edits'?",
        ),
        (
            EarlyStopping("val/edits"),
            False,
            "EarlyStopping: monitor='val/edits' needs validation, and this run has none: give data.validation with "
            "trainer.limit_val_batches above 0, or monitor 'reward/mean'",
        ),
    ],
)
def test_what_no_round_has_is_refused(callback, validated, said):
    with pytest.raises(ConfigError) as error:
        check_monitors([ReSTEMFilter(), callback], object(), validated=validated)
    assert str(error.value) == said


class Logs(Callback):
    """Of a user, and may log anything."""


@pytest.mark.parametrize(
    "callbacks",
    [
        [EarlyStopping("val/edits"), ModelCheckpoint(monitor="reward_terms/length"), ModelCheckpoint()],
        [EarlyStopping("e_step/diverged_frac"), CheckpointSelection(monitor="m_step/loss")],
        [EarlyStopping("mine"), Logs()],
    ],
)
def test_what_is_logged_or_may_be_is_taken(callbacks):
    check_monitors(callbacks, object(), validated=True)


def test_a_selection_without_validation_takes_rounds_in_turn():
    check_monitors([CheckpointSelection(), EarlyStopping("val/edits", strict=False)], object(), validated=False)
