"""What a SEALTrainer adds to a user's callbacks, and what it leaves out."""

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

from seal_lightning.callbacks import CheckpointSelection, RandomFilter, ReSTEMFilter, RolloutTable
from seal_lightning.errors import ConfigError
from seal_lightning.fit.run_callbacks import choose, with_defaults
from seal_lightning.fit.trainer import SEALTrainer


def names(callbacks):
    return [type(one).__name__ for one in callbacks]


class OwnFilter(ReSTEMFilter):
    pass


class OwnTable(RolloutTable):
    pass


ALL = ["ReSTEMFilter", "CheckpointSelection", "RolloutTable", "EStepProgress", "Trackers"]


@pytest.mark.parametrize(
    ("callbacks", "flags", "expected"),
    [
        (None, {}, ALL),
        (Callback(), {}, ["Callback", *ALL]),
        ([OwnFilter()], {}, ["OwnFilter", *ALL[1:]]),
        ([RandomFilter(), OwnTable()], {}, ["RandomFilter", "OwnTable", "CheckpointSelection", *ALL[3:]]),
        ([CheckpointSelection(monitor="x")], {}, ["CheckpointSelection", "ReSTEMFilter", *ALL[2:]]),
        ([ModelCheckpoint()], {}, ["ModelCheckpoint", *ALL]),
        ([RichProgressBar()], {}, ["RichProgressBar", *ALL[:3], "Trackers"]),
        (None, {"enable_checkpointing": False}, ["ReSTEMFilter", *ALL[2:]]),
        (None, {"enable_progress_bar": False}, [*ALL[:3], "Trackers"]),
        (None, {"enable_rollout_table": False}, [*ALL[:2], *ALL[3:]]),
        (None, {"enable_trackers": False}, ALL[:4]),
        (None, {"barebones": True}, ["ReSTEMFilter", "RolloutTable"]),
    ],
)
def test_ours_are_added_where_none_of_their_kind_is_given(callbacks, flags, expected):
    assert names(with_defaults(callbacks, **flags)) == expected


def test_the_list_of_the_user_stays_as_it_is():
    given = [Callback()]
    with_defaults(given)
    assert names(given) == ["Callback"]


def test_two_filters_are_refused_when_the_trainer_is_made(tmp_path):
    with pytest.raises(ConfigError) as caught:
        SEALTrainer(default_root_dir=str(tmp_path), callbacks=[ReSTEMFilter(), RandomFilter()])
    assert str(caught.value) == (
        "filter: expected one filter among the callbacks, got ReSTEMFilter and RandomFilter: leave out all but one"
    )


def test_a_trainer_has_them(tmp_path):
    trainer = SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)
    assert sorted(names(trainer.callbacks)) == sorted(ALL)  # type: ignore[attr-defined]
    small = SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False, enable_checkpointing=False)
    assert "CheckpointSelection" not in names(small.callbacks)  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "untouched", "expected"),
    [
        ({}, {"checkpoint"}, ["ReSTEMFilter", "CheckpointSelection"]),
        ({"enable_checkpoint_selection": False}, {"checkpoint"}, ["ReSTEMFilter"]),
        ({"enable_checkpoint_selection": False}, set(), ["ReSTEMFilter", "CheckpointSelection"]),  # it was asked for
        ({"enable_checkpointing": False}, set(), ["ReSTEMFilter"]),
    ],
)
def test_a_command_leaves_checkpoints_to_lightning_where_the_flag_says_so(flags, untouched, expected):
    groups = {"filter": ReSTEMFilter(), "checkpoint": CheckpointSelection(), "progress": None}
    chosen, switched = choose(flags, [], groups, untouched=untouched)
    assert names(chosen) == expected
    assert ("enable_checkpoint_selection" in switched) == ("CheckpointSelection" not in expected)
