"""The parser of the commands outside LightningCLI (`seal grade`, `seal adapt` ...), with mistakes in one line.

Options that mean the same as in `seal fit` have the same names, class paths and YAML files.

An option that takes a text takes it as given, even if a file has that name. If an option may be a class, jsonargparse
reads the file that a value names for the settings of that class. If the file holds just a text (a prompt, words, a
number), it takes that for the value: a file `contains` in the working folder would become the grader of
`--model.grader contains`. Here only YAML or JSON with settings is read, and never data.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from argparse import Action
from collections.abc import Iterable, Mapping, Sequence
from os.path import realpath
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from jsonargparse._core import ArgumentGroup  # jsonargparse has no public name for what holds a parser's groups
from jsonargparse._typehints import ActionTypeHint

from seal_lightning.errors import ConfigError, reason_of
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.saving import NOT_HERE, SavingError, save_bytes, save_text
from seal_lightning.options.config_files import loader_of_options, naming_files, sections_of, texts_in
from seal_lightning.options.mistakes import Given, check_switches, explain, located, read_config_files
from seal_lightning.text.escaping import single_line
from seal_lightning.text.redaction import safe_to_save

set_loader("yaml", loader_of_options(get_loader("yaml")), (yaml.YAMLError,))  # for every parser that loads YAML
SETTINGS = (".yaml", ".yml", ".json")
LARGEST = 100_000  # bytes in a file with the settings of one class
_CLASS_PATH = re.compile(r"[A-Za-z_]\w{0,200}(?:\.[A-Za-z_]\w{0,200}){1,20}")


class ParserError(ConfigError):
    """A message of jsonargparse, not yet made readable."""


class TextOption(ActionTypeHint):
    """An option that takes a text or a class."""

    def _check_type(self, value: object, append: bool = False, cfg: Any = None, mode: Any = None) -> object:
        # jsonargparse looks at the names of these parameters
        before = self._enable_path
        self._enable_path = before and names_settings(value)
        try:
            read = super()._check_type(value, append=append, cfg=cfg, mode=mode)
            classes = _classes_in(value) if read in (value, [value]) else None
            if classes is None:
                return read
            # a class that was taken for a text: say why it is none
            return super()._check_type(classes, append=append, cfg=cfg, mode=mode)
        finally:
            self._enable_path = before


def _classes_in(value: object) -> dict[str, object] | list[object] | None:
    """The mapping with a `class_path`, or list of such, that a text is in YAML; None for every other value."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "[") or "class_path" not in value:
        return None
    try:
        read = load_yaml(value)
    except (ValueError, yaml.YAMLError):
        return None
    parts = read if isinstance(read, list) else [read]
    return read if any(isinstance(part, dict) and "class_path" in part for part in parts) else None


class OptionGroup(ArgumentGroup):
    """A group of options that takes texts as given."""

    def _add_action(self, action: Action) -> Action:
        return super()._add_action(as_given(action))


class PlainParser(ArgumentParser):
    """A parser that takes texts as given and options by their full names, and raises instead of printing its usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group_class = OptionGroup

    def _add_action(self, action: Action) -> Action:
        return super()._add_action(as_given(action))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        raise ParserError(message) from ex

    def _get_option_tuples(self, option_string: str) -> list[tuple[Action, str, str | None]]:
        return []

    def format_help(self) -> str:
        return without_backspaces(super().format_help())


class Parser(PlainParser):
    """The parser of one command.

    Args:
        command: The command of `seal` whose options these are.
        description: What the command does.
    """

    def __init__(self, command: str = "", *, description: str = "", **options: Any) -> None:
        super().__init__(prog=f"seal {command}", description=description, **options)
        self.command = command

    def read(self, args: Sequence[str]) -> Namespace:
        """The options, with objects made from them.

        Raises:
            ConfigError: An option is unknown, or has a value that cannot work.
        """
        return self.make(self.settings(args))

    def settings(self, args: Sequence[str]) -> Namespace:
        """The options as written in YAML, checked; `make` makes objects from them. Raises as `read`."""
        files = read_config_files(args)
        find_modules_here(args, files)
        given = Given(self.command, args, files, *named_options(self._actions))
        check_switches(given)
        settings = parsed(self, list(args), given, self._actions)
        refuse_nulls(self._actions, settings, given)
        return settings

    def make(self, settings: Namespace) -> Namespace:
        """The options, with objects made from them. Raises `ConfigError` where an object cannot be made."""
        with located(settings.as_dict()):
            return self.instantiate(settings)


def without_backspaces(text: str) -> str:
    """A help text without jsonargparse's backspaces after a blank, which our streams would show by name."""
    return text.replace(" \b", "")


def parsed(parser: ArgumentParser, args: list[str], given: Given, actions: Iterable[Action]) -> Namespace:
    """A command line as its options, of which `actions` are those of the command. Raises as `Parser.read`."""
    with naming_files(given.args, given.files), sections_of(plain_options(actions)):
        try:
            return parser.parse_args(args)
        except ParserError as error:
            raise ConfigError(explain(str(error), given)) from error


def named_options(actions: Iterable[Action]) -> tuple[list[str], list[str]]:
    """The full names of a parser's options, and of those that take no value."""
    names = [
        (name.removeprefix("--"), action.nargs) for action in actions for name in action.option_strings if "--" in name
    ]
    return [name for name, _ in names], [name for name, nargs in names if nargs == 0]


def plain_options(actions: Iterable[Action]) -> list[str]:
    """The full names of a parser's options with a type of their own, so without sections."""
    return [action.dest for action in actions if getattr(action, "_typehint", None) is not None and _is_option(action)]


def refuse_nulls(actions: Iterable[Action], settings: Namespace, given: Given) -> None:
    """Raises `ConfigError` for an option that is null though its type excludes null; jsonargparse allows it."""
    for action in actions:
        kind = getattr(action, "_typehint", None)
        if kind is None or kind is Any or not _is_option(action) or {None, type(None)} & set(get_args(kind)):
            continue
        if action.default is not None and settings.get(action.dest, "") is None:
            raise ConfigError(f"{given.where(action.dest)}: expected a value, got null; leave it out or give one")


def _is_option(action: Action) -> bool:
    return f"--{action.dest}" in action.option_strings and not action.dest.endswith(".help")


def find_modules_here(args: Sequence[str], files: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    """Let Python find modules of the working folder, where the `seal` script would not look by default.

    The folder comes last in the search path, so that it hides nothing, and only if the command line or a config file
    names one of its modules, so that a command that merely reads files of strangers imports none of them.
    """
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        return
    texts = [*args, *(text for _, content in files for text in texts_in(content))]
    paths = [Path(*dotted.split(".")) for text in texts for dotted in _CLASS_PATH.findall(text)]
    modules = [parent for path in paths for parent in [*path.parents][:-1]]  # of `my_package.my_module.MyClass`
    if any(module.with_suffix(".py").is_file() or (module / "__init__.py").is_file() for module in modules):
        sys.path.append(here)


def as_given(action: Action) -> Action:
    """The action of an option, which takes a text as given if it may be a text."""
    hint = getattr(action, "_typehint", None)
    if type(action) is ActionTypeHint and get_origin(hint) in (Union, UnionType) and str in get_args(hint):
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


def save_settings(path: Path, text: str, *, header: str) -> None:
    """Write a configuration, dumped as YAML, without secrets; `header` becomes a comment on the first line.

    Raises:
        SavingError: The file cannot be written.
    """
    content = safe_to_save(yaml.safe_load(text))
    save_text(path, f"# {single_line(header)}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def write_file(option: str, name: str, text: str, *, unlike: Sequence[Path]) -> None:
    """Write a file that the user named, packed if its name ends in .gz; its folder is made, and a link is followed.

    It must not replace one of `unlike`, which are files that were read.

    Raises:
        ConfigError: Nothing can be written there.
        SavingError: The disk has no room for it.
    """
    path = Path(name).expanduser()
    if path.exists() and not path.is_file():
        raise ConfigError(f"{option} {name}: expected a file or a new name, got a folder or device; choose another")
    if any(realpath(path) == realpath(other) for other in unlike):
        raise ConfigError(f"{option} {name}: expected another file than the one that was read; choose another")
    content = text.encode(errors="replace")
    try:
        save_bytes(path.resolve(), gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except SavingError as error:
        if error.cause.errno not in NOT_HERE:
            raise
        raise ConfigError(f"{option} {name}: {reason_of(error.cause)}; choose a place where you can write") from error
