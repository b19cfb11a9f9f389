"""Objects that remember what they were made from, so that a run from Python can write its configuration.

A base class of ours adds `Remembers`; every class derived from it keeps the arguments of its constructor as they were
given, whatever the constructor makes of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

_GIVEN = "_seal_given"
P = ParamSpec("P")
Self = TypeVar("Self", bound="Remembers")


class _Given:
    """Arguments of a constructor; copies share them, and pickles, which go to other processes, leave them behind."""

    def __init__(self, args: tuple[object, ...], options: dict[str, object]) -> None:
        self.args = args
        self.options = options

    def __copy__(self) -> _Given:
        return self

    def __deepcopy__(self, memo: object) -> _Given:
        return self

    def __reduce__(self) -> tuple[type[_Given], tuple[object, ...]]:
        return _Given, ((), {})


class Remembers:
    """Base of classes whose objects remember the arguments that they were made from."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]


def _remembering(init: Callable[Concatenate[Self, P], None]) -> Callable[Concatenate[Self, P], None]:
    @wraps(init)
    def remembering(self: Self, *args: P.args, **options: P.kwargs) -> None:
        vars(self).setdefault(_GIVEN, _Given(args, options))  # the outermost class is called first
        init(self, *args, **options)

    return remembering


def given_arguments(value: object) -> dict[str, Any]:
    """The arguments that an object was made from, by name, including those of `**options`.

    Raises:
        ValueError: The object was also given arguments without a name (`*args`).

    >>> class Point(Remembers):
    ...     def __init__(self, x, *, y=0, **more): ...
    >>> given_arguments(Point(1, y=2, z=3))
    {'x': 1, 'y': 2, 'z': 3}
    """
    given = getattr(value, "__dict__", {}).get(_GIVEN)
    if given is None:
        if is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return {}
    signature = inspect.signature(type(value).__init__)
    bound = signature.bind(value, *given.args, **given.options)
    arguments: dict[str, Any] = {}
    for name, argument in list(bound.arguments.items())[1:]:  # the first is the object itself
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_KEYWORD:
                arguments |= argument
            case inspect.Parameter.VAR_POSITIONAL:
                raise ValueError("arguments without a name")
            case _:
                arguments[name] = argument
    return arguments
