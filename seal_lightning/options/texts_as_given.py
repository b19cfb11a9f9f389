"""An option that takes a text takes it as it is given, also where a file has that name.

jsonargparse reads the file that a value names where an option may be a class, for the settings of that class; if what
it finds is a text too (a prompt, words, a number), it would take that for the value: a file `contains` in the working
folder would be the grader of `--model.grader contains`. Here only YAML or JSON with settings is read, and data never.
"""

from __future__ import annotations

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
LARGEST = 100_000  # bytes of a file with the settings of one class


class TextOption(ActionTypeHint):
    """An option that takes a text or a class."""

    def _check_type(self, value: Any, append: bool = False, cfg: Any = None, mode: Any = None) -> Any:
        before = self._enable_path
        self._enable_path = before and names_settings(value)
        try:
            return super()._check_type(value, append=append, cfg=cfg, mode=mode)
        finally:
            self._enable_path = before


class Group(ArgumentGroup):
    """A group of options, of which texts are taken as they are given."""

    def _add_action(self, action: Any) -> Any:
        return super()._add_action(as_given(action))


class TextsAsGiven(ArgumentParser):
    """A parser that takes texts as they are given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group_class = Group

    def _add_action(self, action: Any) -> Any:
        return super()._add_action(as_given(action))


def as_given(action: Any) -> Any:
    """The action of an option; where that may be a text, it is not read from the file that it names."""
    if type(action) is ActionTypeHint and _takes_text(action._typehint):
        action.__class__ = TextOption
    return action


def names_settings(value: Any) -> bool:
    """Whether a value names a file with the settings of a class: a small one of YAML or JSON that holds a mapping."""
    if not isinstance(value, str) or not value.lower().endswith(SETTINGS):
        return False
    path = Path(value).expanduser()
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return False
        return isinstance(load_yaml(path.read_text(encoding="utf-8-sig")), Mapping)
    except (OSError, ValueError, yaml.YAMLError):
        return False


def _takes_text(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and str in get_args(hint)
