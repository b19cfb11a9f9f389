"""A subclass of `SEALModule` of one's own, named as LightningCLI names any class.

    model: {class_path: my_module.Mine, init_args: {inner_loop: {rank: 4}}}
    --model my_module.Mine --model.inner_loop.rank 4

The class is chosen before the parser is made, so that its options have the same names, help and errors as ours, and a
configuration without a class stays as it is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.errors import ConfigError
from seal_lightning.fit.module import SEALModule
from seal_lightning.options.mistakes import one_line
from seal_lightning.stamps.settings import NotPlain, class_path
from seal_lightning.types import Json, JsonObject

_CLASS = re.compile(r"[A-Za-z_]\w{0,200}(\.[A-Za-z_]\w{0,200}){0,20}")
_INNER = "--model.init_args."


def chosen_class(
    args: Sequence[str], files: Sequence[tuple[str, Mapping[str, Json]]]
) -> tuple[type[SEALModule], list[str]]:
    """The class of the module that a command line and its config files name, and the arguments without what chose it.

    Raises:
        ConfigError: The class that the last of them names cannot be imported, or is of another kind.
    """
    waiting = list(files)
    named = ("", "")
    left: list[str] = []
    place = 0
    while place < len(args):
        name, equals, value = args[place].partition("=")
        if not equals and place + 1 < len(args):
            value = args[place + 1]
        taken = 1 if equals else 2
        if name in ("-c", "--config") and waiting:
            path, content = waiting.pop(0)
            if path_of_class := _class_in(content):
                named = f"model.class_path in {path}", path_of_class
        elif name == "--model.class_path" or (name == "--model" and _is_class(value)):
            named = name, value
            place += taken
            continue
        left.append(f"--model.{args[place].removeprefix(_INNER)}" if args[place].startswith(_INNER) else args[place])
        place += 1
    return (_imported(*named) if named[1] else SEALModule), left


def imported(where: str, path: str) -> object:
    """What a dotted path names. Raises `ConfigError`, with what was wrong in its module."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"{where}: class_path {path} cannot be used: {one_line(str(error), 200)}") from error


def with_class(config: JsonObject, kind: type[SEALModule]) -> JsonObject:
    """A configuration that names the class of its `model`, where it is not ours."""
    if kind is SEALModule:
        return config
    try:
        path = class_path(kind)
    except NotPlain:
        path = f"{kind.__module__}.{kind.__qualname__}"
    options = config.get("model")
    return {**config, "model": {"class_path": path, **({"init_args": options} if options else {})}}


def _class_in(content: Mapping[str, Json]) -> str:
    model = content.get("model")
    if isinstance(model, Mapping):
        return str(model.get("class_path") or "")
    return model if isinstance(model, str) and _is_class(model) else ""


def _is_class(value: str) -> bool:
    """Whether a value is the name of a class, not of a file with the options."""
    return bool(_CLASS.fullmatch(value)) and not value.endswith((".yaml", ".yml", ".json")) and not Path(value).exists()


def _imported(where: str, path: str) -> type[SEALModule]:
    if path == "SEALModule":
        return SEALModule
    if "." not in path or not _CLASS.fullmatch(path):
        raise ConfigError(
            f"{where}: expected a class_path such as my_module.MyModule, got {one_line(path, 80)!r}: add its module"
        )
    kind = imported(where, path)
    if not isinstance(kind, type) or not issubclass(kind, SEALModule):
        raise ConfigError(f"{where}: expected a class below seal_lightning.SEALModule, got {path}: derive it from that")
    return kind
