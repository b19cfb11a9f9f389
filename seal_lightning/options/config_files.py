"""Configuration in YAML or JSON as it is read: within bounds, no key twice, and a section that is empty is not there.

`model:` with nothing behind it, because all below it is a comment, means that this file says nothing of the model; YAML
reads it as null, which would take the place of the section of the file before. A null that is written out stays what it
is, but for a section, which cannot be null and keeps what it was. All of it holds for files, for files that files refer
to, and for values on the command line: jsonargparse loads each of them with what `loader_of_options` makes.
"""

from __future__ import annotations

import logging
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
SHORT = 100_000  # characters that are also read by PyYAML's own parser, slower and stricter (of tabs) than libyaml
_sections: ContextVar[frozenset[str]] = ContextVar("sections", default=frozenset())


def read_config(option: str, path: str) -> Any:
    """What is in a config file, without its empty sections.

    Args:
        option: That named the file, for messages.
        path: As it was given.

    Raises:
        ConfigError: It is missing or unreadable, no YAML or JSON, breaks a bound, or has a key twice.
    """
    name = f"{option} {path}"
    text = _text(name, Path(path).expanduser())
    try:
        surveyed = survey(text)
        if surveyed.repeated:
            key = surveyed.repeated[0]
            raise ConfigError(f"{name}, line {key.line}: {key.name} stands there twice; merge the two")
        loader = yaml.SafeLoader if len(text) <= SHORT else SAFE
        return without_empty(load_yaml(text, loader=loader), surveyed.empty)
    except yaml.YAMLError as error:
        line, problem = place_of(error)
        advice = "indent with spaces, not tabs" if _tab(text, line) else "repair it"
        raise ConfigError(
            f"{name}{f', line {line}' if line else ''}: no valid YAML or JSON ({problem}); {advice}"
        ) from None


def loader_of_options(load: Callable[[str], Any]) -> Callable[..., Any]:
    """jsonargparse's own loader of YAML with our bounds around it, for `jsonargparse.set_loader`.

    What is no YAML stays an error of YAML, because many values are just texts. What breaks a bound is refused, and what
    is empty in a mapping is taken out of it.
    """

    def bounded(text: str, path: object = "") -> Any:
        try:
            surveyed = survey(text)
        except BeyondBounds as error:
            line, problem = place_of(error)
            where = f"{path}, line {line}" if path else f"line {line}"
            raise ConfigError(f"{where}: no valid YAML or JSON ({problem}); repair it") from None
        value = guarded(lambda: load(text))
        if isinstance(value, str) and surveyed.sections and (path or text.endswith("\n")):
            return {}  # a file with nothing but `model:` is no text "model:"
        value = without_empty(value, surveyed.empty)
        if path:
            value = without_class(value)
        return _without_null_sections(value, str(path), ()) if path else value

    return bounded


@contextmanager
def sections_of(options: Iterable[str]) -> Iterator[None]:
    """Within it, what is above others of these options (`model` of `model.seed`) is a section, and is never null."""
    parts = (option.split(".") for option in options)
    token = _sections.set(frozenset(".".join(names[:most]) for names in parts for most in range(1, len(names))))
    try:
        yield
    finally:
        _sections.reset(token)


@contextmanager
def naming_files(args: Sequence[str], files: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Name the file that breaks a bound, where an option on the command line or in a config file names it.

    jsonargparse hands its loader a text, and not where it is from.

    Raises:
        ConfigError: In place of any that is raised while there is such a file.
    """
    try:
        yield
    except ConfigError as error:
        named = [(Path(), arg.partition("=")[2] if arg.startswith("--") else arg) for arg in args]
        named += [(Path(path).parent, text) for path, content in files for text in _texts(content)]
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
        raise ConfigError(f"{path}, line {line}: no valid YAML or JSON ({problem}); repair it") from error
    except (OSError, ValueError, yaml.YAMLError):
        return  # it names no file, or one of another kind


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def without_empty(value: Any, empty: Sequence[Key]) -> Any:
    """The value without the keys that have nothing behind them."""
    for key in empty:
        holder = value
        for part in key.path[:-1]:
            holder = _inner(holder, part)
        if isinstance(holder, dict) and holder.get(key.name, "") is None:
            del holder[key.name]
    return value


def _without_null_sections(value: Any, file: str, above: tuple[str, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, inner in value.items():
        path = above if name == "init_args" else (*above, str(name))  # it is no part of an option's name
        is_section = name == "init_args" or ".".join(path) in _sections.get()
        place = ".".join((*above, str(name)))
        if is_section and not isinstance(inner, dict | str | None):  # a text names a file with the section
            got = "a list" if isinstance(inner, list) else str(inner)[:40]
            raise ConfigError(f"{place} in {file}: expected a mapping, got {got}; write its options below it")
        if is_section and inner is None:
            log.warning("%s: the section %s is null and changes nothing", file, place)
        else:
            kept[name] = _without_null_sections(inner, file, path)
    return kept


def without_class(config: Any) -> Any:
    """A configuration whose `model` are the options of its class, which is chosen elsewhere (`model_class.py`).

    >>> without_class({"model": {"class_path": "my.Module", "init_args": {"seed": 1}}})
    {'model': {'seed': 1}}
    """
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not {"class_path", "init_args"} & model.keys():
        return config
    options = {name: value for name, value in model.items() if name not in ("class_path", "init_args")}
    return {**config, "model": {**options, **(model.get("init_args") or {})}}


def _inner(holder: Any, part: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(part)
    return holder[part] if isinstance(holder, list) and isinstance(part, int) and part < len(holder) else None


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


def _tab(text: str, line: int) -> bool:
    """Whether a line is indented with a tab."""
    lines = text.splitlines()
    return 0 < line <= len(lines) and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
