"""Reads configuration in YAML or JSON: within bounds, without repeated keys, and without empty sections.

`model:` with nothing behind it, because everything below is a comment, means that the file says nothing about the
model; YAML reads it as null, which would replace the section of an earlier file. A null that is written out stays,
except for a section, which cannot be null and keeps its value. This holds for files, for files that they refer to, and
for values on the command line: jsonargparse loads them all with the loader of `loader_of_options`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.errors import ConfigError, reason_of
from seal_lightning.files.bounded import check_plain
from seal_lightning.files.bounded_yaml import CHARACTERS, SAFE, BeyondBounds, Key, guarded, load_yaml, place_of, survey

log = logging.getLogger(__name__)
SHORT = 100_000  # characters up to which PyYAML's own parser reads, slower than libyaml and stricter about tabs
_sections: ContextVar[frozenset[str]] = ContextVar("sections", default=frozenset())


def read_config(option: str, path: str) -> object:
    """The content of a config file that an option named, without its empty sections.

    Raises:
        ConfigError: The file cannot be read, is neither YAML nor JSON, breaks a bound, or repeats a key.
    """
    name = f"{option} {path}"
    text = _text(name, Path(path).expanduser())
    try:
        surveyed = survey(text)
        if surveyed.repeated:
            key = surveyed.repeated[0]
            raise ConfigError(f"{name}, line {key.line}: {key.name} appears twice; merge the two")
        loader = yaml.SafeLoader if len(text) <= SHORT else SAFE
        return without_empty(load_yaml(text, loader=loader), surveyed.empty)
    except yaml.YAMLError as error:
        line, problem = place_of(error)
        tab = line and re.match(r"\s*\t", "".join(text.splitlines()[line - 1 : line]))
        advice = "indent with spaces, not tabs" if tab else "repair it"
        raise ConfigError(
            f"{name}{f', line {line}' if line else ''}: not valid YAML or JSON ({problem}); {advice}"
        ) from None


def loader_of_options(load: Callable[[str], object]) -> Callable[..., object]:
    """jsonargparse's own YAML loader within our bounds, for `jsonargparse.set_loader`.

    Text that is not YAML stays an error of YAML, because many values are just texts. Text that breaks a bound is
    refused, and empty keys are removed from mappings.
    """

    def bounded(text: str, path: object = "") -> object:
        try:
            surveyed = survey(text)
        except BeyondBounds as error:
            line, problem = place_of(error)
            where = f"{path}, line {line}" if path else f"line {line}"
            raise ConfigError(f"{where}: not valid YAML or JSON ({problem}); repair it") from None
        value = guarded(lambda: load(text))
        if isinstance(value, str) and surveyed.sections and (path or text.endswith("\n")):
            return {}  # a file with nothing but `model:` is not the text "model:"
        value = without_empty(value, surveyed.empty)
        if path:
            value = without_class(value)
        return _without_null_sections(value, str(path), ()) if path else value

    return bounded


@contextmanager
def sections_of(options: Iterable[str]) -> Iterator[None]:
    """Within it, the parents of these options (`model` of `model.seed`) are sections, which are never null."""
    parts = (option.split(".") for option in options)
    token = _sections.set(frozenset(".".join(names[:most]) for names in parts for most in range(1, len(names))))
    try:
        yield
    finally:
        _sections.reset(token)


@contextmanager
def naming_files(args: Sequence[str], files: Sequence[tuple[str, object]]) -> Iterator[None]:
    """Name the file that breaks a bound, if the command line or a config file names it.

    jsonargparse gives its loader a text without its origin.

    Raises:
        ConfigError: The block raised one, which then names that file.
    """
    try:
        yield
    except ConfigError as error:
        named = [(Path(), arg.partition("=")[2] if arg.startswith("--") else arg) for arg in args]
        named += [(Path(path).parent, text) for path, content in files for text in texts_in(content)]
        for folder, text in named:
            for path in (Path(text), folder / text):
                _refuse_beyond(path, error)
        raise


def _refuse_beyond(path: Path, error: ConfigError) -> None:
    try:
        if path.is_file() and path.stat().st_size <= 4 * CHARACTERS:
            survey(path.read_text(encoding="utf-8-sig", errors="replace"))
    except BeyondBounds as reason:
        line, problem = place_of(reason)
        raise ConfigError(f"{path}, line {line}: not valid YAML or JSON ({problem}); repair it") from error
    except (OSError, ValueError, yaml.YAMLError):
        return  # it does not name a config file


def texts_in(value: object) -> Iterator[str]:
    """Every text in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:  # a key may name a class, too
            yield from texts_in(inner)


def without_empty(value: object, empty: Sequence[Key]) -> object:
    """The value without its empty keys."""
    for key in empty:
        holder = value
        for part in key.path[:-1]:
            if isinstance(holder, list):
                holder = holder[part] if isinstance(part, int) and part < len(holder) else None
            else:
                holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and holder.get(key.name, "") is None:
            del holder[key.name]
    return value


def _without_null_sections(value: object, file: str, above: tuple[str, ...]) -> object:
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, inner in value.items():
        path = above if name == "init_args" else (*above, str(name))  # options are named without it
        is_section = name == "init_args" or ".".join(path) in _sections.get()
        place = ".".join((*above, str(name)))
        if is_section and not isinstance(inner, dict | str | None):  # a text is the name of a file with the section
            got = "a list" if isinstance(inner, list) else str(inner)[:40]
            raise ConfigError(f"{place} in {file}: expected a mapping, got {got}; write its options below it")
        if is_section and inner is None:
            log.warning("%s: the section %s is null, which changes nothing", file, place)
        else:
            kept[name] = _without_null_sections(inner, file, path)
    return kept


def without_class(config: Any) -> Any:
    """The configuration with the options of `model` directly below it; `model_class.py` chooses the class.

    >>> without_class({"model": {"class_path": "my.Module", "init_args": {"seed": 1}}})
    {'model': {'seed': 1}}
    """
    if not isinstance(config, dict) or not isinstance(model := config.get("model"), dict):
        return config
    if not {"class_path", "init_args"} & model.keys():
        return config
    options = {name: value for name, value in model.items() if name not in ("class_path", "init_args")}
    return {**config, "model": {**options, **(model.get("init_args") or {})}}


def _text(name: str, path: Path) -> str:
    try:
        check_plain(path, error=ConfigError)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: expected UTF-8 text, got other bytes; save the file as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{name}: {str(error).partition(': ')[2]}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read ({reason_of(error)}); check the path") from None
