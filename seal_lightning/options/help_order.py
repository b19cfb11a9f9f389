"""The order of `seal COMMAND --help`: SEAL's options first, those of Lightning's trainer last.

LightningCLI lists the trainer first, fifty options before the first of ours.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable

RUN = "The run: rounds, folder, what is logged, and where the work is done"
LIGHTNING = "Lightning's own options of the trainer"
_TRAINER = "trainer"
_LATE = ("seed_everything",)  # Lightning's, though it stands among the options at the top


def order_groups(parser: argparse.ArgumentParser, trainer_class: Callable[..., object]) -> None:
    """Put the groups of a command's parser into our order; the trainer's docstring describes what is ours of it."""
    groups = list(parser._action_groups)
    trainer = next(group for group in groups if any(name.startswith(f"{_TRAINER}.") for name in _names(group)))
    run, lightning = parser.add_argument_group(RUN), parser.add_argument_group(LIGHTNING)
    positional, options, *_ = groups
    of_command = [group for group in groups if _names(group) == {"ckpt_path"}]
    described = inspect.getdoc(trainer_class) or ""
    parameters = inspect.signature(trainer_class).parameters
    own = {f"{_TRAINER}.{name}" for name in parameters if f"\n    {name}: " in described}
    _move([trainer], run, lambda action: _name(action) in own)
    _move(of_command, options, lambda action: True)
    _move([trainer], lightning, lambda action: True)
    _move([options], lightning, lambda action: _name(action) in _LATE)
    others = [group for group in groups[2:] if group is not trainer and group not in of_command]
    parser._action_groups[:] = [positional, options, *others, run, lightning]


def _name(action: argparse.Action) -> str:
    """The full name of an option; that of `--trainer.logger.help` is `trainer.logger`."""
    named = [name for name in action.option_strings if name.startswith("--") and not name.endswith("+")]
    return (named[0] if named else action.dest).removeprefix("--").removesuffix(".help")


def _names(group: argparse._ArgumentGroup) -> set[str]:
    return {_name(action) for action in group._group_actions}


def _move(
    sources: Iterable[argparse._ArgumentGroup],
    target: argparse._ArgumentGroup,
    chosen: Callable[[argparse.Action], bool],
) -> None:
    for source in sources:
        moved = [action for action in source._group_actions if chosen(action)]
        target._group_actions.extend(moved)
        source._group_actions[:] = [action for action in source._group_actions if action not in moved]
