"""The callbacks that a run has anyway: the groups `filter`, `checkpoint`, `table`, `progress` and `trackers`.

On the command line each can be replaced by another class of its kind (`class_path`), and left out with null, but for
the filter. From Python a `SEALTrainer` adds those whose kind its user did not pass, as Lightning adds its own, so that
both leave the same in the run folder: checkpoints, `policy/` and tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from seal_lightning.callbacks import CheckpointSelection, EStepProgress, ReSTEMFilter, RolloutTable, Trackers
from seal_lightning.errors import ConfigError
from seal_lightning.hooks import EditFilter, check_one_filter

GROUPS: dict[str, type[Callback]] = {
    "filter": EditFilter,
    "checkpoint": Checkpoint,
    "table": Callback,
    "progress": ProgressBar,
    "trackers": Callback,
}
# The kinds of which a run has one: a user's own among `trainer.callbacks` takes the place of the group's. Lightning's
# `ModelCheckpoint` goes beside `CheckpointSelection`, since it writes no policy.
SINGLE: dict[str, type[Callback]] = {
    "filter": EditFilter,
    "checkpoint": CheckpointSelection,
    "table": RolloutTable,
    "progress": ProgressBar,
    "trackers": Trackers,
}
DEFAULTS: dict[str, type[Callback]] = {**SINGLE, "filter": ReSTEMFilter, "progress": EStepProgress}


def switched_off(flags: Mapping[str, object]) -> set[str]:
    """The groups that a trainer's flags leave out; a flag that is missing or null is on."""
    ways = {"checkpoint": "checkpointing", "progress": "progress_bar", "table": "rollout_table", "trackers": "trackers"}
    off = {name for name, way in ways.items() if flags.get(f"enable_{way}") is False}
    return off | ({"checkpoint", "progress", "trackers"} if flags.get("barebones") else set())


def with_defaults(callbacks: Callback | Iterable[Callback] | None, **flags: object) -> list[Callback]:
    """A user's callbacks, and ours of the kinds that are neither among them nor left out by the trainer's flags.

    Raises:
        ConfigError: Several filters are among the user's.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    check_one_filter(given)
    off = switched_off(flags) | (set() if flags.get("enable_checkpoint_selection", True) else {"checkpoint"})
    missing = [name for name, kind in SINGLE.items() if not any(isinstance(callback, kind) for callback in given)]
    return [*given, *(DEFAULTS[name]() for name in missing if name not in off)]


def choose(
    options: Mapping[str, object],
    given: Sequence[Callback],
    groups: Mapping[str, Callback | None],
    *,
    untouched: AbstractSet[str],
) -> tuple[list[Callback], dict[str, bool]]:
    """The groups' callbacks that a run of a command has, and what its trainer is told about those that it lacks.

    Args:
        options: Options of the trainer. Its flags outrank the groups: without checkpointing there is no `checkpoint`.
        given: The user's own callbacks; one of a group's kind takes the place of a group that nobody set.
        groups: The groups' callbacks by name; None where the user wrote null.
        untouched: Groups that are as they are by default.

    Raises:
        ConfigError: There is no filter.
    """
    off = switched_off(options)
    replaced = {name for name in untouched if any(isinstance(own, SINGLE[name]) for own in given)}
    if options.get("enable_checkpoint_selection") is False:
        replaced |= untouched & {"checkpoint"}  # by Lightning's own checkpoints
    kept = {
        name: callback
        for name, callback in groups.items()
        if callback is not None and name not in off and name not in replaced
    }
    run = [*given, *kept.values()]

    def lacks(kind: type[Callback]) -> bool:
        return not any(isinstance(callback, kind) for callback in run)

    if lacks(EditFilter):
        raise ConfigError("filter: expected a filter, got null: a run needs one, for example --filter ReSTEMFilter")
    lacking = {
        "enable_rollout_table": lacks(RolloutTable),
        "enable_trackers": lacks(Trackers),
        "enable_checkpoint_selection": lacks(CheckpointSelection),
        "enable_checkpointing": groups["checkpoint"] is None and lacks(Checkpoint),
        "enable_progress_bar": groups["progress"] is None and lacks(ProgressBar),
    }
    return list(kept.values()), {flag: False for flag, is_lacking in lacking.items() if is_lacking}
