"""Objects that remember what they were made from, so that a run from Python can write its configuration.

A base class of ours adds `Remembers`; whatever is derived from it keeps the arguments of its constructor as they were
given, whatever the constructor makes of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

_GIVEN = "_seal_given"


class _Given:
    """Arguments of a constructor; copies share them, and pickles, which go to other processes, leave them behind."""

    def __init__(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.args = args
        self.options = options

    def __copy__(self) -> _Given:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Given:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Given, ((), {})


class Remembers:
    """Base of classes whose objects remember the arguments that they were made from."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def remembering(self: Any, *args: Any, **options: Any) -> None:
        vars(self).setdefault(_GIVEN, _Given(args, options))  # the outermost class is called first
        init(self, *args, **options)

    return remembering


def given_arguments(value: Remembers) -> dict[str, Any]:
    """The arguments that an object was made from, by name; those of `**options` among them.

    Raises:
        ValueError: It was also given arguments without a name (`*args`).

    >>> class Point(Remembers):
    ...     def __init__(self, x, *, y=0, **more): ...
    >>> given_arguments(Point(1, y=2, z=3))
    {'x': 1, 'y': 2, 'z': 3}
    """
    given = vars(value).get(_GIVEN)
    if given is None:
        if is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return {}
    signature = inspect.signature(type(value).__init__)
    bound = signature.bind(value, *given.args, **given.options)
    found: dict[str, Any] = {}
    for place, (name, argument) in enumerate(bound.arguments.items()):
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_KEYWORD:
                found |= argument
            case inspect.Parameter.VAR_POSITIONAL if argument:
                raise ValueError("arguments without a name")
            case _ if place:  # the first is the object itself
                found[name] = argument
    return found
