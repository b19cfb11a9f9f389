"""A module from a checkpoint alone: with the run's settings, which it holds as plain values, and its policy.

A checkpoint may be anybody's, so its settings are data, as those of a run that `--policy` names (`trust.py`): numbers,
names of classes of this package, prompts. What they may not choose has to be given anew, or trusted on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch

from seal_lightning.errors import ConfigError, ModelError, SealError
from seal_lightning.fit.base import FitModule
from seal_lightning.fit.checkpoint_file import Checkpoint, fault_of
from seal_lightning.grading.reward import writable
from seal_lightning.models.finite import check_finite
from seal_lightning.options.mistakes import explain, located, one_line
from seal_lightning.options.parser import Parser, ParserError
from seal_lightning.options.trust import also_refused, wishes
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.stamps.settings import NotPlain, class_path, plain
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import Json, JsonObject

_Module = TypeVar("_Module", bound=FitModule)


def saved_state(checkpoint: Checkpoint, module: FitModule) -> Checkpoint:
    """What SEAL has in a checkpoint, once it is known to fit the module's base model and to be finite.

    Raises:
        ModelError: Another base model or another program wrote it.
        DivergedError: Its weights are not finite.
    """
    saved = checkpoint.get("seal")
    if saved is None:
        raise ModelError("the checkpoint was not written by seal fit; give one of a run's checkpoints/*.ckpt")
    if saved["base"] != module.base_fingerprint:
        raise ModelError(
            f"the checkpoint belongs to another base model than model.source.name={module.source.name}; use the config "
            "saved beside the run"
        )
    for number, weights in enumerate([*saved["merged"], checkpoint["state_dict"]], start=1):
        check_finite(
            weights,
            f"the checkpoint, round {number}",
            advice="give an earlier one, such as checkpoints/best.ckpt, or start again in another folder with a lower "
            "model.m_step.learning_rate",
        )
    return saved


def written_arguments(module: FitModule) -> dict[str, object]:
    """The arguments that a module was made from, in the form that a configuration has for them."""
    arguments = given_arguments(module)
    return {**arguments, "reward": writable(arguments["reward"])} if "reward" in arguments else arguments


def settings_of_module(module: FitModule) -> JsonObject:
    """What a module was made from, as plain values without secrets: its class, arguments, and those left out."""
    arguments: JsonObject = {}
    left_out: dict[str, str] = {}
    for name, value in written_arguments(module).items():
        try:
            arguments[name] = plain(value)
        except NotPlain as error:
            left_out[name] = str(error)
    return safe_to_save({"class": _path(type(module)), "model": arguments, "left_out": left_out})


def restored(
    kind: type[_Module],
    path: str | Path,
    *,
    map_location: torch.device | str | int | None,
    trusted: bool,
    given: Mapping[str, object],
) -> _Module:
    """A module of a class with the settings and the policy of a checkpoint: `SEALModule.load_from_checkpoint`."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{path}: there is no such checkpoint; give one of a run's checkpoints/*.ckpt")
    if fault := fault_of(file):
        raise ConfigError(f"{path}: it is damaged, or is not a checkpoint of seal fit: {fault}; give another one")
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    settings = _settings(checkpoint["seal"], kind, str(path), given)
    if not trusted:
        _refuse_wishes(settings, kind, file, str(path))
    module = kind(**{**_made(kind, settings, str(path), given), **given})
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


def _settings(saved: Checkpoint, kind: type, path: str, given: Mapping[str, object]) -> JsonObject:
    """The arguments that the checkpoint has for a class, without those that are given."""
    settings = saved.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("model"), Mapping):
        raise ConfigError(
            f"{path}: it holds no settings, as of an earlier version: make the module yourself, and give the file as "
            "ckpt_path of SEALTrainer's methods"
        )
    own = _path(kind)
    if (class_of_run := settings.get("class")) != own:
        name = one_line(str(class_of_run), 100)
        raise ConfigError(f"{path}: it is of a {name}, got {own}: call load_from_checkpoint of that class")
    left_out = settings.get("left_out")
    lacking = (
        {name: why for name, why in left_out.items() if name not in given} if isinstance(left_out, Mapping) else {}
    )
    if lacking:
        name, why = next(iter(lacking.items()))
        raise ConfigError(
            f"{path}: it could not hold {name} ({one_line(str(why), 200)}): give {name}=... as the run had it"
        )
    return {str(name): value for name, value in settings["model"].items() if name not in given}


def _refuse_wishes(settings: Mapping[str, Json], kind: type, file: Path, path: str) -> None:
    run = file.resolve().parent
    asked = wishes(settings, kind, run=run.parent if run.name == "checkpoints" else run)
    if asked:
        first = asked[0]
        raise ConfigError(
            f"{path}: {first.option}: {first.value} {first.reason}, which a checkpoint may not choose"
            f"{also_refused(asked)}: give {first.option.split('.')[1]}=... yourself, or trust_checkpoint=True if you "
            "trust whoever made it"
        )


def _made(
    kind: type, settings: Mapping[str, Json], path: str, given: Mapping[str, object]
) -> dict[str, object]:
    """The arguments as objects, without those that are given."""
    parser = Parser()
    parser.add_class_arguments(kind, "model", instantiate=False, fail_untyped=False, skip=set(given))
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
