"""The groups `filter`, `checkpoint`, `table`, `progress` and `trackers`: callbacks that a run of a command has anyway.

Each can be replaced by another class of its kind (`class_path`), and left out with null, but for the filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from seal_lightning.callbacks import CheckpointSelection, RolloutTable, Trackers
from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter

GROUPS: dict[str, type[Callback]] = {
    "filter": EditFilter,
    "checkpoint": Checkpoint,
    "table": Callback,
    "progress": ProgressBar,
    "trackers": Callback,
}
# Of which a run has one, so that a user's own in `trainer.callbacks` takes the place of the group's.
SINGLE: dict[str, type[Callback]] = {
    "filter": EditFilter,
    "checkpoint": CheckpointSelection,
    "table": RolloutTable,
    "progress": ProgressBar,
    "trackers": Trackers,
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The groups' callbacks that a run has, and what its trainer is told about those that it lacks."""

    callbacks: list[Callback]
    flags: dict[str, Any]


def choose(
    options: Mapping[str, Any],
    given: Sequence[Callback],
    groups: Mapping[str, Callback | None],
    *,
    untouched: AbstractSet[str],
) -> Chosen:
    """Which groups a run has.

    Args:
        options: Of the trainer. Its flags outrank the groups: without checkpointing there is no `checkpoint`.
        given: The user's own callbacks; one of a group's kind takes the place of a group that nobody set.
        groups: By name; None where the user wrote null.
        untouched: Groups that are as they are by default.

    Raises:
        ConfigError: There is no filter.
    """
    off = options["barebones"]
    without = {
        "checkpoint": off or options["enable_checkpointing"] is False,
        "progress": off or options["enable_progress_bar"] is False,
        "table": not options["enable_rollout_table"],
        "trackers": off or not options["enable_trackers"],
    }
    kept = {
        name: callback
        for name, callback in groups.items()
        if callback is not None
        and not without.get(name)
        and not (name in untouched and any(isinstance(one, SINGLE[name]) for one in given))
    }
    run = [*given, *kept.values()]
    if not any(isinstance(one, EditFilter) for one in run):
        raise ConfigError("filter: expected a filter, got null: a run needs one, for example --filter ReSTEMFilter")
    flags: dict[str, Any] = {}
    if not any(isinstance(one, RolloutTable) for one in run):
        flags["enable_rollout_table"] = False
    if not any(isinstance(one, Trackers) for one in run):
        flags["enable_trackers"] = False
    if not any(isinstance(one, CheckpointSelection) for one in run):
        flags["enable_checkpoint_selection"] = False
    if groups["checkpoint"] is None and not any(isinstance(one, Checkpoint) for one in run):
        flags["enable_checkpointing"] = False
    if groups["progress"] is None and not any(isinstance(one, ProgressBar) for one in run):
        flags["enable_progress_bar"] = False
    return Chosen(list(kept.values()), flags)
