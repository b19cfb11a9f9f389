"""Python objects as the plain values that stand for them in a configuration: `class_path` with `init_args`.

An object of ours remembers what it was made from (`remembering.py`). Of others the arguments are read from attributes
of the same name; one of Lightning's is made again from them and compared, since its attributes may say something else.
What cannot be written down is refused with the reason, for whoever names it to the user.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from seal_lightning.stamps.arguments import Remembers, given_arguments

_PACKAGE = __name__.partition(".")[0]
_MISSING = object()
_OTHERWISE = {"save_dir": "_root_dir"}  # names of arguments of Lightning's that are kept under another one
_COMPARED = ("lightning", "lightning_fabric", "pytorch_lightning")


class NotPlain(Exception):
    """A value that no configuration can hold; the message says why."""


def plain(value: Any) -> Any:
    """A value as YAML can hold it.

    Raises:
        NotPlain: It cannot.
    """
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
    if is_dataclass(value) and not isinstance(value, Remembers) and _is_ours(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    arguments = _arguments(value)
    found: dict[str, Any] = {"class_path": class_path(type(value))}
    if init_args := plain_arguments(arguments, of=type(value)):
        found["init_args"] = init_args
    return found


def _key(key: object) -> str:
    """The key of a mapping; that of a class or function is where it is imported from."""
    written = plain(key)
    if isinstance(written, Mapping | list):
        raise NotPlain(f"a {type(key).__qualname__} is the key of a mapping")
    return str(written)


def plain_arguments(arguments: Mapping[str, Any], *, of: type) -> dict[str, Any]:
    """The arguments of a constructor. Raises `NotPlain` with the name of the first that cannot be written."""
    found = {}
    for name, argument in arguments.items():
        try:
            found[name] = plain(argument)
        except NotPlain as error:
            raise NotPlain(f"{name} of {of.__qualname__}: {error}") from None
    return found


def class_path(owner: Any) -> str:
    """Where a class or function is imported from, by the shortest path below its package.

    Raises:
        NotPlain: It is defined in a script, a notebook or a function, where nothing can import it from.
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


def _is_ours(kind: Any) -> bool:
    return kind.__module__.partition(".")[0] == _PACKAGE


def _arguments(value: Any) -> dict[str, Any]:
    """The arguments that an object was made from, or could have been."""
    kind = type(value)
    if isinstance(value, Remembers):
        try:
            return given_arguments(value)
        except ValueError as error:
            raise NotPlain(f"{kind.__qualname__} has {error}") from None
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    if not hasattr(value, "__dict__"):
        raise NotPlain(f"{kind.__qualname__} is of a kind that YAML does not know")
    return _from_attributes(value, kind)


def _from_attributes(value: Any, kind: type) -> dict[str, Any]:
    """The arguments of an object that does not remember them, from attributes of the same name."""
    compared = kind.__module__.partition(".")[0] in _COMPARED
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= next((held for key, held in vars(value).items() if key.endswith("kwargs")), None) or {}
            continue
        held = _held(value, name)
        if held is _MISSING and (not compared or parameter.default is parameter.empty):
            raise NotPlain(f"{kind.__qualname__} does not keep its argument {name}")
        if held is not _MISSING and held is not parameter.default:
            found[name] = held
    if compared and not _is_alike(value, _made(kind, found)):
        raise NotPlain(f"{kind.__qualname__} does not keep all of its arguments")
    return found


def _held(value: Any, name: str) -> Any:
    """What an object holds under the name of an argument, by itself or among options that it passes on."""
    own = vars(value)
    for key in (name, f"_{name}", _OTHERWISE.get(name, "")):
        if key in own:
            return own[key]
    passed = (held for held in own.values() if isinstance(held, Mapping))
    return next((held[name] for held in passed if name in held), _MISSING)


def _made(kind: type, arguments: dict[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a constructor of another package makes of them
        raise NotPlain(f"{kind.__qualname__} does not keep all of its arguments") from error


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two objects have the same plain attributes."""
    return _plain_attributes(one) == _plain_attributes(other)


def _plain_attributes(value: Any) -> dict[str, Any]:
    return {name: held for name, held in vars(value).items() if _is_simple(held) and name != "start_time"}


def _is_simple(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_simple, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_simple, value))
    return value is None or isinstance(value, bool | int | float | str | os.PathLike)
