"""An option that takes a text takes it as given, even if a file has that name.

If an option may be a class, jsonargparse reads the file that a value names for the settings of that class. If the file
holds just a text (a prompt, words, a number), it takes that for the value: a file `contains` in the working folder
would become the grader of `--model.grader contains`. Here only YAML or JSON with settings is read, and never data.
"""

from __future__ import annotations

from argparse import Action
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser
from jsonargparse._core import ArgumentGroup  # jsonargparse has no public name for what holds a parser's groups
from jsonargparse._typehints import ActionTypeHint

from seal_lightning.files.bounded_yaml import load_yaml

SETTINGS = (".yaml", ".yml", ".json")
LARGEST = 100_000  # bytes in a file with the settings of one class


class TextOption(ActionTypeHint):
    """An option that takes a text or a class."""

    def _check_type(self, value: object, append: bool = False, cfg: Any = None, mode: Any = None) -> object:
        # jsonargparse looks at the names of these parameters
        before = self._enable_path
        self._enable_path = before and names_settings(value)
        try:
            return super()._check_type(value, append=append, cfg=cfg, mode=mode)
        finally:
            self._enable_path = before


class OptionGroup(ArgumentGroup):
    """A group of options that takes texts as given."""

    def _add_action(self, action: Action) -> Action:
        return super()._add_action(as_given(action))


class TextsAsGiven(ArgumentParser):
    """A parser that takes texts as given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group_class = OptionGroup

    def _add_action(self, action: Action) -> Action:
        return super()._add_action(as_given(action))


def as_given(action: Action) -> Action:
    """The action of an option, which takes a text as given if it may be a text."""
    if type(action) is ActionTypeHint and _takes_text(action._typehint):
        action.__class__ = TextOption
    return action


def names_settings(value: object) -> bool:
    """Whether a value names a file with the settings of a class: a small YAML or JSON file with a mapping."""
    if not isinstance(value, str) or not value.lower().endswith(SETTINGS):
        return False
    path = Path(value).expanduser()
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return False
        return isinstance(load_yaml(path.read_text(encoding="utf-8-sig")), Mapping)
    except (OSError, ValueError, yaml.YAMLError):
        return False


def _takes_text(hint: object) -> bool:
    return get_origin(hint) in (Union, UnionType) and str in get_args(hint)
