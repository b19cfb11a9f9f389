"""The parser of the commands outside LightningCLI (`seal grade`, `seal adapt` ...), with mistakes in one line.

Options that mean the same as in `seal fit` have the same names, class paths and YAML files.
"""

from __future__ import annotations

import gzip
from argparse import Action
from collections.abc import Iterable, Sequence
from os.path import realpath
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import Namespace, get_loader, set_loader

from seal_lightning.errors import ConfigError, reason_of
from seal_lightning.files.saving import NOT_HERE, SavingError, save_bytes, save_text
from seal_lightning.options.config_files import loader_of_options, naming_files, sections_of
from seal_lightning.options.mistakes import Given, check_switches, explain, located, read_config_files
from seal_lightning.options.texts_as_given import TextsAsGiven
from seal_lightning.options.working_folder import find_modules_here
from seal_lightning.text.escaping import single_line
from seal_lightning.text.redaction import safe_to_save

set_loader("yaml", loader_of_options(get_loader("yaml")), (yaml.YAMLError,))  # for every parser that loads YAML


class ParserError(ConfigError):
    """A message of jsonargparse, not yet made readable."""


class Parser(TextsAsGiven):
    """Raises instead of printing its usage, and takes options by their full names only.

    Args:
        command: The command of `seal` whose options these are.
        description: What the command does.
    """

    def __init__(self, command: str = "", *, description: str = "", **options: Any) -> None:
        super().__init__(prog=f"seal {command}", description=description, **options)
        self.command = command

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        raise ParserError(message) from ex

    def _get_option_tuples(self, option_string: str) -> list[tuple[Action, str, str | None]]:
        return []

    def format_help(self) -> str:
        return without_backspaces(super().format_help())

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
        with naming_files(args, files):
            try:
                with sections_of(plain_options(self._actions)):
                    settings = self.parse_args(list(args))
            except ParserError as error:
                raise ConfigError(explain(str(error), given)) from error
        refuse_nulls(self._actions, settings, given)
        return settings

    def make(self, settings: Namespace) -> Namespace:
        """The options, with objects made from them. Raises `ConfigError` where an object cannot be made."""
        with located(settings.as_dict()):
            return self.instantiate(settings)


def without_backspaces(text: str) -> str:
    """A help text without jsonargparse's backspaces after a blank, which our streams would show by name."""
    return text.replace(" \b", "")


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


def save_settings(path: Path, text: str, *, header: str) -> None:
    """Write a configuration, dumped as YAML, without secrets; `header` becomes a comment on the first line.

    Raises:
        SavingError: The file cannot be written.
    """
    content = safe_to_save(yaml.safe_load(text))
    save_text(path, f"# {single_line(header)}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def write_file(option: str, name: str, text: str, *, unlike: Sequence[Path]) -> None:
    """Write a file that the user named, packed if its name ends in .gz; its folder is made, and a link is followed.

    Args:
        option: The option that named it, for messages.
        name: Name of the file.
        text: Its content.
        unlike: Files that were read, which it must not replace.

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
