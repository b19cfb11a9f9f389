"""Python objects as the plain values that stand for them in a configuration: `class_path` with `init_args`.

These values make the object again; those of `values.describe` only tell whether two objects differ. An object of ours
remembers what it was made from (`arguments.py`). For others the arguments are read from attributes of the same name;
one of Lightning's is made again from them and compared, since its attributes may say something else. What cannot be
written down is refused with a reason, for the caller to report.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from seal_lightning.stamps.arguments import Remembers, given_arguments
from seal_lightning.types import JsonObject

_PACKAGE = __name__.partition(".")[0]
_MISSING = object()
_OTHERWISE = {"save_dir": "_root_dir"}  # arguments that Lightning keeps under another name
_COMPARED = ("lightning", "lightning_fabric", "pytorch_lightning")


class NotPlain(Exception):
    """A value that no configuration can hold; the message says why."""


def plain(value: object) -> Any:
    """A value as YAML can hold it. Raises `NotPlain` if that cannot be done."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str | os.PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if inspect.isclass(value) or inspect.isfunction(value):
        return class_path(value)
    kind = type(value)
    is_record = is_dataclass(value) and not isinstance(value, Remembers) and _is_ours(kind)
    path: JsonObject = {} if is_record else {"class_path": class_path(kind)}
    arguments: JsonObject = {}
    for name, argument in _arguments(value, kind).items():
        try:
            arguments[name] = plain(argument)
        except NotPlain as error:
            raise NotPlain(f"{name} of {kind.__qualname__}: {error}") from None
    if is_record:
        return arguments
    if arguments:
        path["init_args"] = arguments
    return path


def _key(key: object) -> str:
    """The key of a mapping; that of a class or function is where it is imported from."""
    written = plain(key)
    if isinstance(written, Mapping | list):
        raise NotPlain(f"a {type(key).__qualname__} is the key of a mapping")
    return str(written)


def class_path(owner: Callable[..., object]) -> str:
    """Where a class or function is imported from, by the shortest path below its package.

    Raises:
        NotPlain: The owner is defined in a script, a notebook or a function, where nothing can import it from.
    """
    module, name = owner.__module__, owner.__qualname__
    if module == "__main__" or "<" in name:
        raise NotPlain(f"{name} is defined in {'a function' if '<locals>' in name else 'a script or notebook'}")
    parts = module.split(".")
    for length in range(1 if _is_ours(owner) else len(parts), len(parts) + 1):
        holder = ".".join(parts[:length])
        if getattr(sys.modules.get(holder), name, None) is owner:
            return f"{holder}.{name}"
    raise NotPlain(f"{module}.{name} cannot be imported by that name")


def _is_ours(owner: Callable[..., object]) -> bool:
    return owner.__module__.partition(".")[0] == _PACKAGE


def _arguments(value: object, kind: type) -> Mapping[str, object]:
    """The arguments that an object was made from, or could have been."""
    if isinstance(value, Remembers) or is_dataclass(value):
        try:
            return given_arguments(value)
        except ValueError as error:
            raise NotPlain(f"{kind.__qualname__} has {error}") from None
    if not hasattr(value, "__dict__"):
        raise NotPlain(f"{kind.__qualname__} is not a type that YAML can hold")
    compared = kind.__module__.partition(".")[0] in _COMPARED
    arguments = _from_attributes(value, kind, complete=not compared)
    if compared and not _can_be_made(value, kind, arguments):
        raise NotPlain(f"{kind.__qualname__} does not keep all of its arguments")
    return arguments


def _from_attributes(value: object, kind: type, *, complete: bool) -> dict[str, object]:
    """The arguments of an object that does not remember them, from attributes of the same name.

    Args:
        value: The object.
        kind: Its class.
        complete: Whether arguments that have a default must be kept, too.
    """
    arguments: dict[str, object] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= next((held for key, held in vars(value).items() if key.endswith("kwargs")), None) or {}
            continue
        held = _held(value, name)
        if held is _MISSING and (complete or parameter.default is parameter.empty):
            raise NotPlain(f"{kind.__qualname__} does not keep its argument {name}")
        if held is not _MISSING and held is not parameter.default:
            arguments[name] = held
    return arguments


def _held(value: object, name: str) -> object:
    """What an object holds under the name of an argument, by itself or among options that it passes on."""
    own = vars(value)
    for key in (name, f"_{name}", _OTHERWISE.get(name, "")):
        if key in own:
            return own[key]
    passed = (held for held in own.values() if isinstance(held, Mapping))
    return next((held[name] for held in passed if name in held), _MISSING)


def _can_be_made(value: object, kind: type, arguments: Mapping[str, object]) -> bool:
    """Whether the arguments give an object with the same plain attributes."""
    try:
        made = kind(**arguments)
    except Exception:  # whatever a constructor of another package makes of them
        return False
    return _plain_attributes(value) == _plain_attributes(made)


def _plain_attributes(value: object) -> dict[str, object]:
    return {name: held for name, held in vars(value).items() if _is_simple(held) and name != "start_time"}


def _is_simple(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_simple, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_simple, value))
    return value is None or isinstance(value, bool | int | float | str | os.PathLike)
