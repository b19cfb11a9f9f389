"""A module from a checkpoint alone: with the run's settings, which it holds as plain values, and its policy.

A checkpoint may be anybody's, so its settings are data, as those of a run that `--policy` names (`trust.py`): numbers,
names of classes of this package, prompts. What they may not choose has to be given anew, or trusted on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seal_lightning.errors import ConfigError, ModelError, SealError
from seal_lightning.fit.checkpoint_file import fault_of
from seal_lightning.options.mistakes import explain, located, one_line
from seal_lightning.options.parser import Parser, ParserError
from seal_lightning.options.trust import wishes
from seal_lightning.stamps.settings import NotPlain, class_path


def restored(kind: type, path: str | Path, *, map_location: Any, trusted: bool, given: Mapping[str, Any]) -> Any:
    """A module of a class with the settings and the policy of a checkpoint.

    Args:
        kind: `SEALModule`, or the class below it that the run had.
        path: The checkpoint.
        map_location: The device that the module is moved to; None leaves it on the CPU.
        trusted: Whether its settings may name classes of anybody, servers and paths.
        given: Arguments of the constructor that take the place of the run's.

    Raises:
        ConfigError: There is no such checkpoint, or its settings cannot be used as they are.
        ModelError: Base model and checkpoint do not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{path}: there is no such checkpoint; give one of a run's checkpoints/*.ckpt")
    if fault := fault_of(file):
        raise ConfigError(f"{path}: it is damaged, or no checkpoint of seal fit: {fault}; give another one")
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    settings = _settings(checkpoint["seal"], kind, str(path), given)
    if not trusted:
        _refuse_wishes(settings, kind, file, str(path))
    module = kind(**{**_made(kind, settings, str(path)), **given})
    module.configure_model()
    module.on_load_checkpoint(checkpoint)
    weights = checkpoint["state_dict"]
    if {name.removeprefix("model.") for name in weights} != set(module.policy.trainable_state()):
        raise ModelError(f"{path}: the checkpoint does not fit model.tuning; leave tuning as the run had it")
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other shapes
        raise ModelError(f"{path}: the checkpoint does not fit model.tuning: {one_line(str(error), 200)}") from error
    return module if map_location is None else module.to(map_location)


def _settings(saved: Mapping[str, Any], kind: type, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the checkpoint has for a class, without those that are given.

    Raises:
        ConfigError: It has none, is of another class, or could not hold one that is not given either.
    """
    found = saved.get("settings")
    if not isinstance(found, Mapping) or not isinstance(found.get("model"), Mapping):
        raise ConfigError(
            f"{path}: it holds no settings, as of an earlier version: make the module yourself, and give the file as "
            "ckpt_path of SEALTrainer's methods"
        )
    own = _path(kind)
    if (class_of_run := found.get("class")) != own:
        name = one_line(str(class_of_run), 100)
        raise ConfigError(f"{path}: it is of a {name}, got {own}: call load_from_checkpoint of that class")
    left_out = found.get("left_out")
    lacking = (
        {name: why for name, why in left_out.items() if name not in given} if isinstance(left_out, Mapping) else {}
    )
    if lacking:
        name, why = next(iter(lacking.items()))
        raise ConfigError(
            f"{path}: it could not hold {name} ({one_line(str(why), 200)}): give {name}=... as the run had it"
        )
    return {str(name): value for name, value in found["model"].items() if name not in given}


def _refuse_wishes(settings: Mapping[str, Any], kind: type, file: Path, path: str) -> None:
    run = file.resolve().parent
    found = wishes(settings, kind, run=run.parent if run.name == "checkpoints" else run)
    if found:
        first, others = found[0], [wish.option for wish in found[1:]]
        also = f" (so does {', '.join(others[:4])}{' and others' if len(others) > 4 else ''})" if others else ""
        name = first.option.split(".")[1]
        raise ConfigError(
            f"{path}: {first.option}: {first.value} {first.reason}, which a checkpoint may not choose{also}: give "
            f"{name}=... yourself, or trust_checkpoint=True if you trust whoever made it"
        )


def _made(kind: type, settings: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The arguments as objects."""
    parser = Parser()
    parser.add_class_arguments(kind, "model", instantiate=False, fail_untyped=False)
    try:
        parsed = parser.parse_object({"model": dict(settings)}, defaults=False)
        with located(parsed.as_dict()):
            made = parser.instantiate(parsed)
    except (ParserError, TypeError, ValueError) as error:
        if isinstance(error, SealError) and not isinstance(error, ConfigError):
            raise
        text = explain(str(error)) if isinstance(error, ParserError) else one_line(str(error))
        raise ConfigError(f"{path}: its settings cannot be used: {text}") from error
    arguments = made.get("model") or {}
    return {name: arguments[name] for name in settings if name in arguments}


def _path(kind: type) -> str:
    try:
        return class_path(kind)
    except NotPlain:
        return kind.__qualname__
