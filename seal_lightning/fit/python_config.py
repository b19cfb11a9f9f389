"""The configuration of a run that was started from Python, as the same command would have written it.

The constructors' arguments of trainer, module, data module and callbacks go through the command's own parser, which
knows the defaults and what is accepted. What cannot be written as YAML is left out, and named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer

from seal_lightning.errors import ConfigError
from seal_lightning.fit.base import FitTrainer
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.parser import parse_settings
from seal_lightning.fit.restoring import written_arguments
from seal_lightning.fit.run_callbacks import SINGLE
from seal_lightning.fit.run_folder import SaveConfigBesideRun
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.stamps.settings import NotPlain, class_path, plain
from seal_lightning.types import Json


class Settings:
    """Nested plain values, and the options that could not be written as such.

    Attributes:
        values: Settings by section.
        left_out: Reasons why options are not there, by their full names.
    """

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}

    def add(self, section: str, name: str, value: object) -> None:
        try:
            self.values.setdefault(section, {})[name] = plain(value)
        except NotPlain as error:
            self.left_out[f"{section}.{name}"] = str(error)

    def add_each(self, section: str, name: str, values: Sequence[object]) -> None:
        """A list without those of its items that cannot be written."""
        kept = []
        for place, value in enumerate(values):
            try:
                kept.append(plain(value))
            except NotPlain as error:
                self.left_out[f"{section}.{name}[{place}]"] = str(error)
        if kept or not values:
            self.values.setdefault(section, {})[name] = kept


def trainer_settings(trainer: FitTrainer) -> Settings:
    """Settings of a trainer just made; later, Lightning's callbacks hold what a run has made of their arguments."""
    settings = Settings()
    arguments = given_arguments(trainer)
    given = arguments.pop("callbacks", None) or []
    own = [callback for callback in ([given] if isinstance(given, Callback) else given) if not _has_group(callback)]
    for name, value in arguments.items():
        if isinstance(value, list | tuple) and not all(isinstance(item, int | float | str) for item in value):
            settings.add_each("trainer", name, value)
        else:
            settings.add("trainer", name, value)
    if own:
        settings.add_each("trainer", "callbacks", own)
    for section, kind in SINGLE.items():
        for callback in trainer.callbacks:
            if isinstance(callback, kind):
                try:
                    settings.values[section] = plain(callback)
                except NotPlain as error:
                    settings.left_out[section] = str(error)
    return settings


def _has_group(callback: Callback) -> bool:
    return isinstance(callback, (*SINGLE.values(), SaveConfigBesideRun))


def config_of(
    trainer: FitTrainer, module: SEALModule, given: Settings, *, options_of: type[Trainer], ckpt_path: str | None
) -> SaveConfigBesideRun:
    """What writes the configuration of a run; `left_out` names what is missing from it.

    Args:
        trainer: The trainer within the run.
        module: The module of the run.
        given: The settings of the trainer when it was made.
        options_of: The class of the trainer that the command has, whose options are written.
        ckpt_path: The checkpoint as it was given.
    """
    data, command = trainer.datamodule, str(getattr(trainer.state.fn, "value", ""))
    settings = Settings()
    settings.values = {name: dict(section) for name, section in given.values.items()}
    settings.left_out = dict(given.left_out)
    settings.values.setdefault("trainer", {})["default_root_dir"] = str(trainer.default_root_dir)
    kind = type(module)
    try:
        class_path(kind)
    except NotPlain as error:
        settings.left_out["model.class_path"], kind = str(error), SEALModule
    for name, value in written_arguments(module).items():
        settings.add("model", name, value)
    for name, value in given_arguments(data).items():
        settings.add("data", name, value)
    arguments = settings.values.pop("data", {})
    try:
        settings.values["data"] = {"class_path": class_path(type(data)), "init_args": arguments}
    except NotPlain as error:
        settings.left_out["data"] = str(error)
    others: dict[str, Any] = {"ckpt_path": ckpt_path}
    if (seed := os.environ.get("PL_GLOBAL_SEED", "")).isdigit():
        others["seed_everything"] = int(seed)
    return accepted(command, kind, settings, others, options_of)


def accepted(
    command: str, kind: type[SEALModule], settings: Settings, others: Mapping[str, Json], trainer: type[Trainer]
) -> SaveConfigBesideRun:
    """What the command's parser takes of the settings; one option after another where it does not take all."""

    def parsed(values: Mapping[str, Json]) -> SaveConfigBesideRun:
        return SaveConfigBesideRun(
            *parse_settings(command, kind, {**others, **values}, trainer=trainer), save_to_log_dir=False
        )

    try:
        writer = parsed(settings.values)
    except ConfigError:
        kept: dict[str, Any] = {}
        for section, values in settings.values.items():
            whole = section in SINGLE or "class_path" in values
            for name, value in {"": values}.items() if whole else values.items():
                tried = {**kept, section: values if whole else {**kept.get(section, {}), name: value}}
                try:
                    parsed(tried)
                    kept = tried
                except ConfigError as error:
                    settings.left_out[f"{section}.{name}".removesuffix(".")] = str(error)
        writer = parsed(kept)
    writer.left_out = settings.left_out
    return writer
