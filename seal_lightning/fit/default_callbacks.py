"""The callbacks that a `SEALTrainer` adds where its user passed none of their kind, as Lightning adds its own.

With them a run from Python leaves what the commands leave: the filter chooses what the policy learns, and the run
folder gets checkpoints, `policy/` and tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar

from seal_lightning.callbacks import CheckpointSelection, EStepProgress, ReSTEMFilter, RolloutTable, Trackers
from seal_lightning.hooks import EditFilter, check_one_filter


def with_defaults(
    callbacks: Callback | Iterable[Callback] | None,
    *,
    enable_checkpointing: bool | None = None,
    enable_progress_bar: bool | None = None,
    enable_rollout_table: bool = True,
    enable_trackers: bool = True,
    barebones: bool = False,
) -> list[Callback]:
    """A user's callbacks, and ours of the kinds that are not among them.

    A kind is an `EditFilter`, a `CheckpointSelection` (Lightning's `ModelCheckpoint` goes beside it, since it writes no
    policy), any progress bar, a `RolloutTable` and a `Trackers`.

    Args:
        callbacks: Of the user; the list itself stays as it is.
        enable_checkpointing: False leaves out `CheckpointSelection`, as does `barebones`; None is true.
        enable_progress_bar: False leaves out `EStepProgress`, as does `barebones`; None is true.
        enable_rollout_table: False leaves out `RolloutTable`.
        enable_trackers: False leaves out `Trackers`, as does `barebones`.
        barebones: Of Lightning.

    Raises:
        ConfigError: Several filters are among the user's.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    check_one_filter(given)
    checkpoints = enable_checkpointing is not False and not barebones
    bar = enable_progress_bar is not False and not barebones
    wanted: list[tuple[bool, type[Callback], type[Callback]]] = [
        (True, EditFilter, ReSTEMFilter),
        (checkpoints, CheckpointSelection, CheckpointSelection),
        (enable_rollout_table, RolloutTable, RolloutTable),
        (bar, ProgressBar, EStepProgress),
        (enable_trackers and not barebones, Trackers, Trackers),
    ]
    ours = [make() for needed, kind, make in wanted if needed and not any(isinstance(one, kind) for one in given)]
    return [*given, *ours]
